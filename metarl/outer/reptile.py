"""Reptile: the parameters move towards what they were adapted to."""

from metarl.outer.loop import OtherOptions, OuterLoop, StepSizeOptions, expect
from metarl.outer.objective import Objective
from metarl.policies.parameters import Parameters, flatten
from metarl.support.looks import read


class Reptile(OuterLoop[StepSizeOptions]):
    """θ ← θ + ε mean_i (θ'_i − θ) (Nichol et al. 2018, arXiv 1803.02999, algorithm 2)."""

    Options = StepSizeOptions
    differentiates = False

    def __init__(self, options: StepSizeOptions):
        """`outer_lr` is ε."""
        self._step_size = options.outer_lr

    @classmethod
    def check(cls, options: OtherOptions) -> None:
        """Checks that the inner loop moves all of θ, and nothing needs a gradient."""
        super().check(options)
        name = f"--outer {options.outer}"
        expect(
            options.inner_steps > 0,
            f"{name} moves to the adapted parameters: --inner-steps must be at least 1",
        )
        expect(
            options.step_sizes == "fixed",
            f"{name} has no gradient for --step-sizes {options.step_sizes}: it must be fixed",
        )
        expect(
            options.adapts == "all",
            f"{name} moves only what the inner loop changes: --adapts must be all, not "
            f"{options.adapts}",
        )

    def step(
        self, objective: Objective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        moves = objective.displacement()
        theta = {name: p + self._step_size * moves[name] for name, p in parameters.items()}
        before, _ = objective.value(parameters)
        surrogate, kl = objective.value(theta)
        return theta, {
            "outer/kl": kl,
            "outer/surrogate": surrogate - before,
            "outer/accepted": 1.0,
            "outer/gradient_norm": read(flatten(moves).norm())[0],
        }
