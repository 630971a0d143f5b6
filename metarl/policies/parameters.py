"""Parameters by name, with or without a leading [tasks] dimension."""

from collections.abc import Mapping

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def expand(parameters: Mapping[str, Tensor], tasks: int) -> Parameters:
    """The same parameters for every task: a leading [tasks] dimension, without copying."""
    return {name: value.expand(tasks, *value.shape) for name, value in parameters.items()}


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([value.reshape(-1) for value in parameters.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Parameters:
    """The vector's parts, named and shaped as in `like`."""
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }
