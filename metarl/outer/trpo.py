"""Trust-region policy optimisation of any objective θ -> (surrogate, KL)."""

import math
from dataclasses import dataclass

from metarl.outer.fisher import NaturalOptions, natural_step
from metarl.outer.loop import OuterLoop
from metarl.outer.objective import PolicyObjective
from metarl.policies.parameters import Parameters, flatten, unflatten
from metarl.support.looks import read
from metarl.support.options import Count, Share

AIM, CLOSE_ENOUGH = 0.97, 0.9
"""The share of the trust region that the line search aims at, and the one it is content with."""
LARGEST_RATIO = 2.0
"""Of the lengths of two tries: further away the KL is not quadratic."""


@dataclass(frozen=True, kw_only=True)
class TRPOOptions(NaturalOptions):
    """Options of TRPO."""

    line_search_steps: Count = 15
    """Steps tried at most."""
    line_search_ratio: Share = 0.8
    """Next length where a step does not improve the surrogate."""


class TRPO(OuterLoop[TRPOOptions]):
    """max_θ surrogate(θ) subject to KL(θ) ≤ δ (Schulman et al. 2015, arXiv 1502.05477).

    The natural step is tried first. The line search then goes where the KL measured so far, taken
    as quadratic, is just under δ. Shrinking by a fixed ratio alone would often end at half of δ.
    """

    Options = TRPOOptions

    def __init__(self, options: TRPOOptions):
        """δ is `max_kl`."""
        self._options = options

    def step(
        self, objective: PolicyObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics; θ itself where no step was acceptable."""
        options = self._options
        surrogate, gradient, direction, length = natural_step(objective, parameters, options)
        theta = flatten(parameters)
        scale = 1.0  # the length over that of the natural step
        best, metrics = parameters, _metrics()
        for tries in range(1, options.line_search_steps + 1):  # noqa: B007 (reported at the end)
            candidate = unflatten(theta + length * direction, parameters)
            new_surrogate, kl = objective.value(candidate)
            improvement = new_surrogate - surrogate
            if improvement > metrics["outer/surrogate"] and kl <= options.max_kl:
                best = candidate
                metrics = _metrics(kl, options.max_kl * scale**2, improvement, 1.0)
                if kl >= CLOSE_ENOUGH * options.max_kl:
                    break
            elif metrics["outer/accepted"]:
                break
            ratio = self._ratio(improvement, kl)
            length, scale = length * ratio, scale * ratio
        return best, metrics | {
            "outer/line_search_steps": float(tries),
            "outer/gradient_norm": read(gradient.norm())[0],
        }

    def _ratio(self, improvement: float, kl: float) -> float:
        """Next length over this one: KL grows with the square of the length, roughly."""
        if improvement > 0 and 0 < kl < math.inf:
            return min(LARGEST_RATIO, math.sqrt(AIM * self._options.max_kl / kl))
        return self._options.line_search_ratio


def _metrics(
    kl: float = 0.0, claimed: float = 0.0, improvement: float = 0.0, accepted: float = 0.0
) -> dict[str, float]:
    """Of the best step so far."""
    return {
        "outer/kl": kl,
        "outer/kl_claimed": claimed,
        "outer/surrogate": improvement,
        "outer/accepted": accepted,
    }
