"""The natural gradient of any objective, followed without a line search."""

from metarl.outer.fisher import NaturalOptions, natural_step
from metarl.outer.loop import OuterLoop
from metarl.outer.objective import PolicyObjective
from metarl.policies.parameters import Parameters, flatten, unflatten
from metarl.support.looks import read


class NaturalGradient(OuterLoop[NaturalOptions]):
    """θ ← θ + √(2δ / gᵀF⁻¹g) F⁻¹g (Kakade 2001, with the length normalised by its KL).

    This is the first try of TRPO, taken whatever its value is.
    """

    Options = NaturalOptions

    def __init__(self, options: NaturalOptions):
        """δ is `max_kl`."""
        self._options = options

    def step(
        self, objective: PolicyObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        before, gradient, direction, length = natural_step(objective, parameters, self._options)
        theta = unflatten(flatten(parameters) + length * direction, parameters)
        surrogate, kl = objective.value(theta)
        step, norm = read(length, gradient.norm())
        return theta, {
            "outer/kl": kl,
            "outer/kl_claimed": self._options.max_kl if step > 0 else 0.0,
            "outer/surrogate": surrogate - before,
            "outer/accepted": 1.0,
            "outer/gradient_norm": norm,
        }
