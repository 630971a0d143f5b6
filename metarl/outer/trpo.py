"""Trust-region policy optimisation of any objective θ -> (surrogate, KL)."""

import math
from dataclasses import dataclass
from typing import Any

from metarl.outer.fisher import TrustRegionObjective, natural_step
from metarl.policies.parameters import Parameters, flatten, unflatten

AIM, CLOSE_ENOUGH = 0.97, 0.9
"""The share of the trust region that the line search aims at, and the one it is content with."""
LARGEST_RATIO = 2.0
"""Of the lengths of two tries: further away the KL is not quadratic."""


@dataclass(frozen=True)
class TRPO:
    """max_θ surrogate(θ) subject to KL(θ) ≤ δ (Schulman et al. 2015, arXiv 1502.05477).

    The natural step is tried first. The line search then goes where the KL measured so far, taken
    as quadratic, is just under δ. Shrinking by a fixed ratio alone would often end at half of δ.
    """

    max_kl: float = 0.01
    cg_iterations: int = 10
    cg_damping: float = 1e-5
    line_search_steps: int = 15
    line_search_ratio: float = 0.8
    fisher_stride: int = 5

    def step(
        self, objective: TrustRegionObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics; θ itself where no step was acceptable."""
        surrogate, gradient, direction, length = natural_step(
            objective,
            parameters,
            self.max_kl,
            self.cg_iterations,
            self.cg_damping,
            self.fisher_stride,
        )
        theta = flatten(parameters)
        best, metrics = parameters, {"outer/kl": 0.0, "outer/surrogate": 0.0, "outer/accepted": 0.0}
        for tries in range(1, self.line_search_steps + 1):  # noqa: B007 (told at the end)
            candidate = unflatten(theta + length * direction, parameters)
            new_surrogate, kl = objective.value(candidate)
            improvement = new_surrogate - surrogate
            if improvement > metrics["outer/surrogate"] and kl <= self.max_kl:
                best = candidate
                metrics = {"outer/kl": kl, "outer/surrogate": improvement, "outer/accepted": 1.0}
                if kl >= CLOSE_ENOUGH * self.max_kl:
                    break
            elif metrics["outer/accepted"]:
                break
            length = length * self._ratio(improvement, kl)
        return best, metrics | {
            "outer/line_search_steps": float(tries),
            "outer/gradient_norm": float(gradient.norm()),
        }

    def state(self) -> dict[str, Any]:
        """Nothing: each step stands for itself."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to go on from."""

    def _ratio(self, improvement: float, kl: float) -> float:
        """Next length over this one: KL grows with the square of the length, roughly."""
        if improvement > 0 and 0 < kl < math.inf:
            return min(LARGEST_RATIO, math.sqrt(AIM * self.max_kl / kl))
        return self.line_search_ratio
