"""An outer loop of one's own: gradient ascent with momentum.

From this folder:

    metarl train --family envs:Navigation2D-v0 --outer momentum:Momentum --momentum 0.9 \
        --outer-lr 0.1 --iterations 5
"""

from dataclasses import dataclass
from typing import Any

import torch

from metarl.outer.loop import OuterLoop, StepSizeOptions
from metarl.outer.objective import Objective
from metarl.policies.parameters import Parameters
from metarl.support.options import Probability


@dataclass(frozen=True, kw_only=True)
class MomentumOptions(StepSizeOptions):
    """Options of momentum; `outer_lr` is inherited."""

    momentum: Probability = 0.5
    """Share of the last step that the next one keeps."""


class Momentum(OuterLoop[MomentumOptions]):
    """v ← m v + ∇ surrogate(θ);  θ ← θ + α v."""

    Options = MomentumOptions

    def __init__(self, options: MomentumOptions):
        """At rest."""
        self.options = options
        self.velocity: Parameters = {}

    def step(
        self, objective: Objective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        before, gradient = objective.gradient(parameters)
        self.velocity = {
            name: self.options.momentum * self.velocity.get(name, torch.zeros_like(g)) + g
            for name, g in gradient.items()
        }
        theta = {
            name: p + self.options.outer_lr * self.velocity[name] for name, p in parameters.items()
        }
        surrogate, kl = objective.value(theta)
        return theta, {"outer/surrogate": surrogate - before, "outer/kl": kl}

    def state(self) -> dict[str, Any]:
        """The velocity."""
        return {"velocity": self.velocity}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self.velocity = state["velocity"]
