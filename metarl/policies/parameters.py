"""Parameters by name, with or without a leading [tasks] dimension."""

from collections.abc import Mapping

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def expand(parameters: Mapping[str, Tensor], tasks: int) -> Parameters:
    """Gives every task the same parameters: adds a leading [tasks] dimension without copying."""
    return {name: value.expand(tasks, *value.shape) for name, value in parameters.items()}


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """Concatenates all parameters into one vector."""
    return torch.cat([value.reshape(-1) for value in parameters.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Parameters:
    """Splits the vector into parameters with the names and shapes of `like`."""
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }
