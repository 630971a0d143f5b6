"""Gradient ascent with Adam on a parameter dict; the state fits in a checkpoint."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metarl.policies.parameters import Parameters
from metarl.support.finite import overflow_is_named


class Adam:
    """Kingma and Ba 2015 (arXiv 1412.6980), by torch, from step to step and run to run."""

    def __init__(self, learning_rate: float):
        self._learning_rate = learning_rate
        self._state: dict[str, Any] | None = None

    def ascend(
        self, parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor]
    ) -> Parameters:
        """The parameters after one step along the gradient.

        Raises:
            NonFiniteError: the step is larger than a number can be.

        """
        leaves = {name: p.detach().clone() for name, p in parameters.items()}
        for name, leaf in leaves.items():
            leaf.grad = gradient[name]
        optimiser = torch.optim.Adam(
            list(leaves.values()), self._learning_rate, maximize=True, foreach=False
        )
        if self._state is not None:
            optimiser.load_state_dict(self._state)
        with overflow_is_named("a step of Adam"):
            optimiser.step()
        self._state = optimiser.state_dict()
        return {name: leaf.detach() for name, leaf in leaves.items()}

    def state(self) -> dict[str, Any]:
        """The moments so far, as tensors and plain types; copies: torch changes them in place."""
        return {} if self._state is None else {"adam": copy.deepcopy(self._state)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self._state = copy.deepcopy(state.get("adam"))
