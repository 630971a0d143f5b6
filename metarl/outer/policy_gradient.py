"""The gradient of any objective, followed by Adam."""

from typing import Any

from metarl.outer.adam import Adam
from metarl.outer.loop import OuterLoop, StepSizeOptions
from metarl.outer.objective import Objective
from metarl.policies.parameters import Parameters, flatten
from metarl.support.looks import read


class PolicyGradient(OuterLoop[StepSizeOptions]):
    """One step of Adam along ∇ surrogate(θ)."""

    Options = StepSizeOptions

    def __init__(self, options: StepSizeOptions):
        """`outer_lr` is the step size of Adam."""
        self._adam = Adam(options.outer_lr)

    def step(
        self, objective: Objective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        before, gradient = objective.gradient(parameters)
        theta = self._adam.ascend(parameters, gradient)
        surrogate, kl = objective.value(theta)
        return theta, {
            "outer/kl": kl,
            "outer/surrogate": surrogate - before,
            "outer/accepted": 1.0,
            "outer/gradient_norm": read(flatten(gradient).norm())[0],
        }

    def state(self) -> dict[str, Any]:
        """The state of Adam."""
        return self._adam.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self._adam.load_state(state)
