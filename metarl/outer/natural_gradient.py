"""The natural gradient of any objective, followed without looking back."""

from dataclasses import dataclass
from typing import Any

from metarl.outer.fisher import TrustRegionObjective, natural_step
from metarl.policies.parameters import Parameters, flatten, unflatten


@dataclass(frozen=True)
class NaturalGradient:
    """θ ← θ + √(2δ / gᵀF⁻¹g) F⁻¹g (Kakade 2001, with the length normalised by its KL).

    TRPO's first try, taken as it is: no replay of the adaptation decides on it.
    """

    max_kl: float = 0.01
    cg_iterations: int = 10
    cg_damping: float = 1e-5
    fisher_stride: int = 5

    def step(
        self, objective: TrustRegionObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        before, gradient, direction, length = natural_step(
            objective,
            parameters,
            self.max_kl,
            self.cg_iterations,
            self.cg_damping,
            self.fisher_stride,
        )
        theta = unflatten(flatten(parameters) + length * direction, parameters)
        surrogate, kl = objective.value(theta)
        return theta, {
            "outer/kl": kl,
            "outer/surrogate": surrogate - before,
            "outer/accepted": 1.0,
            "outer/gradient_norm": float(gradient.norm()),
        }

    def state(self) -> dict[str, Any]:
        """Nothing: each step stands for itself."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to go on from."""
