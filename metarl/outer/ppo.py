"""Proximal policy optimisation of any objective with a clipped surrogate."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from metarl.outer.adam import Adam
from metarl.policies.parameters import Parameters, flatten


class ClippedObjective(Protocol):
    """What PPO asks of an objective."""

    def clipped_gradient(
        self, parameters: Mapping[str, Tensor], clip: float, penalty: float
    ) -> tuple[float, Parameters]:
        """(clipped surrogate − penalty · inner KL, its gradient by θ) at θ."""

    def inner_kl(self, parameters: Mapping[str, Tensor]) -> float:
        """KL of the policies before adaptation from those at the start."""

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(surrogate, KL) at θ."""


class PPO:
    """Several steps of Adam on  surrogate^CLIP(θ) − η KL_inner(θ).

    Schulman et al. 2017 (arXiv 1707.06347) clip the surrogate; the penalty on the change of the
    policy before adaptation is ProMP's (Rothfuss et al. 2018, arXiv 1810.06784, section 5).
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        epochs: int = 5,
        clip: float = 0.3,
        penalty: float = 0.0,
        target_kl: float = 0.0,
    ):
        """`penalty` is η; above a `target_kl` of 0 it is doubled where the inner KL ends above 1.5
        times the target, and halved where it ends below ⅔ of it.
        """
        self.epochs = epochs
        self.clip = clip
        self.penalty = penalty
        self.target_kl = target_kl
        self._adam = Adam(learning_rate)

    def step(
        self, objective: ClippedObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        theta, surrogates, norms = parameters, [], []
        for _ in range(self.epochs):
            surrogate, gradient = objective.clipped_gradient(theta, self.clip, self.penalty)
            surrogates.append(surrogate)
            norms.append(float(flatten(gradient).norm()))
            theta = self._adam.ascend(theta, gradient)
        surrogate, kl = objective.value(theta)
        inner_kl = objective.inner_kl(theta)
        metrics = {
            "outer/kl": kl,
            "outer/surrogate": surrogate - surrogates[0],
            "outer/accepted": 1.0,
            "outer/gradient_norm": norms[0],
            "outer/inner_kl": inner_kl,
            "outer/inner_kl_penalty": self.penalty,
        }
        if self.target_kl and inner_kl > 1.5 * self.target_kl:
            self.penalty *= 2
        elif self.target_kl and inner_kl < self.target_kl / 1.5:
            self.penalty /= 2
        return theta, metrics

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {"penalty": self.penalty, **self._adam.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self.penalty = state["penalty"]
        self._adam.load_state(state)
