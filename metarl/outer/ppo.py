"""Proximal policy optimisation of any objective of a policy."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.outer.adam import Adam
from metarl.outer.loop import OuterLoop, StepSizeOptions, expect
from metarl.outer.objective import PolicyObjective, Replay, Term, divergence, surrogate
from metarl.policies.parameters import Parameters, flatten
from metarl.support.looks import read
from metarl.support.options import Count, NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class PPOOptions(StepSizeOptions):
    """Options of PPO."""

    ppo_epochs: Count = 5
    """Steps of Adam on the same rollouts."""
    clip: Positive = 0.3
    """The ratio of probabilities in ppo is clipped to 1 ± this."""
    inner_kl_penalty: NonNegative = 0.0
    """Weight in ppo of the KL between the policies before adaptation (ProMP)."""
    inner_kl_target: NonNegative = 0.0
    """Above 0, the penalty is doubled or halved from update to update so that this KL stays near
    it; inner_kl_penalty is the first one."""


def clipped_surrogate(clip: float) -> Term:
    """mean_t min(ρ_t A_t, clip(ρ_t, 1 ± clip) A_t), with the ratio ρ_t, plus the correction."""

    def term(replay: Replay) -> Tensor:
        ratio, advantages = replay.ratio, replay.advantages
        clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
        return replay.after.mean(torch.minimum(ratio * advantages, clipped)) + replay.correction

    return term


def inner_divergence(replay: Replay) -> Tensor:
    """KL(π_old ‖ π_new) before each inner step, as a mean over these: [tasks]."""
    total = torch.zeros_like(replay.correction)
    stages = replay.before()
    for stage in stages:
        total = total + stage.mean(stage.old.kl(stage.new))
    return total / max(1, len(stages))


class PPO(OuterLoop[PPOOptions]):
    """Several steps of Adam on  surrogate^CLIP(θ) − η KL_inner(θ).

    Schulman et al. 2017 (arXiv 1707.06347) clip the surrogate; the penalty on the change of the
    policy before adaptation is ProMP's (Rothfuss et al. 2018, arXiv 1810.06784, section 5).
    """

    Options = PPOOptions

    def __init__(self, options: PPOOptions):
        """η is `inner_kl_penalty`; above an `inner_kl_target` of 0 it is doubled where the inner KL
        ends above 1.5 times the target, and halved where it ends below ⅔ of it.
        """
        self._options = options
        self.penalty = options.inner_kl_penalty
        self._adam = Adam(options.outer_lr)

    @classmethod
    def check(cls, options: Any) -> None:
        """Checks that there is a penalty to adapt."""
        super().check(options)
        expect(
            not options.inner_kl_target or options.inner_kl_penalty > 0,
            f"--inner-kl-target {options.inner_kl_target:g} adapts a penalty, of which doubling "
            "makes nothing: --inner-kl-penalty must be above 0",
        )

    def term(self, replay: Replay) -> Tensor:
        """What the steps of Adam increase: [tasks]."""
        value = clipped_surrogate(self._options.clip)(replay)
        return value - self.penalty * inner_divergence(replay) if self.penalty else value

    def step(
        self, objective: PolicyObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        theta, values, norms = parameters, [], []
        for _ in range(self._options.ppo_epochs):
            value, gradient = objective.gradient(theta, self.term)
            values.append(value)
            norms.append(flatten(gradient).norm())
            theta = self._adam.ascend(theta, gradient)
        after, kl, inner_kl = objective.means(theta, surrogate, divergence, inner_divergence)
        metrics = {
            "outer/kl": kl,
            "outer/surrogate": after - values[0],
            "outer/accepted": 1.0,
            "outer/gradient_norm": read(norms[0])[0],
            "outer/inner_kl": inner_kl,
            "outer/inner_kl_penalty": self.penalty,
        }
        target = self._options.inner_kl_target
        if target and inner_kl > 1.5 * target:
            self.penalty *= 2
        elif target and inner_kl < target / 1.5:
            self.penalty /= 2
        return theta, metrics

    def state(self) -> dict[str, Any]:
        """The penalty and the state of Adam."""
        return {"penalty": self.penalty, **self._adam.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self.penalty = state["penalty"]
        self._adam.load_state(state)
