"""Reptile: the parameters move towards what they were adapted to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from metarl.policies.parameters import Parameters, flatten


class AdaptingObjective(Protocol):
    """What Reptile asks of an objective."""

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(surrogate, KL) at θ."""

    def displacement(self) -> Parameters:
        """mean_i θ'_i − θ."""


@dataclass(frozen=True)
class Reptile:
    """θ ← θ + ε mean_i (θ'_i − θ) (Nichol et al. 2018, arXiv 1803.02999, algorithm 2)."""

    learning_rate: float = 0.1
    """ε."""

    def step(
        self, objective: AdaptingObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        moves = objective.displacement()
        theta = {name: p + self.learning_rate * moves[name] for name, p in parameters.items()}
        before, _ = objective.value(parameters)
        surrogate, kl = objective.value(theta)
        return theta, {
            "outer/kl": kl,
            "outer/surrogate": surrogate - before,
            "outer/accepted": 1.0,
            "outer/gradient_norm": float(flatten(moves).norm()),
        }

    def state(self) -> dict[str, Any]:
        """Nothing: each step stands for itself."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to go on from."""
