"""The gradient of any objective, followed by Adam."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from metarl.outer.adam import Adam
from metarl.policies.parameters import Parameters, flatten


class DifferentiableObjective(Protocol):
    """What a gradient step asks of an objective."""

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(surrogate, KL) at θ."""

    def gradient(self, parameters: Mapping[str, Tensor]) -> tuple[float, Parameters]:
        """(surrogate, ∇_θ surrogate) at θ."""


class PolicyGradient:
    """One step of Adam along ∇ surrogate(θ)."""

    def __init__(self, learning_rate: float = 1e-3):
        self._adam = Adam(learning_rate)

    def step(
        self, objective: DifferentiableObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        before, gradient = objective.gradient(parameters)
        theta = self._adam.ascend(parameters, gradient)
        surrogate, kl = objective.value(theta)
        return theta, {
            "outer/kl": kl,
            "outer/surrogate": surrogate - before,
            "outer/accepted": 1.0,
            "outer/gradient_norm": float(flatten(gradient).norm()),
        }

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return self._adam.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self._adam.load_state(state)
