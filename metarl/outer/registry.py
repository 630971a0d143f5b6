"""The outer loops by name, each made from the options of a run that it has use for."""

from collections.abc import Callable
from typing import Any, Protocol

from metarl.outer.evolution import EvolutionStrategies
from metarl.outer.natural_gradient import NaturalGradient
from metarl.outer.policy_gradient import PolicyGradient
from metarl.outer.ppo import PPO
from metarl.outer.reptile import Reptile
from metarl.outer.trpo import TRPO
from metarl.policies.parameters import Parameters


class OuterLoop(Protocol):
    """What a meta-update is to the learner."""

    def step(self, objective: Any, parameters: Parameters) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""


OUTER_LOOPS: dict[str, Callable[[Any], OuterLoop]] = {
    "trpo": lambda options: TRPO(
        max_kl=options.max_kl,
        cg_iterations=options.cg_iterations,
        cg_damping=options.cg_damping,
        line_search_steps=options.line_search_steps,
        line_search_ratio=options.line_search_ratio,
        fisher_stride=round(1 / options.fisher_fraction),
    ),
    "ppo": lambda options: PPO(
        options.outer_lr,
        options.ppo_epochs,
        options.clip,
        options.inner_kl_penalty,
        options.inner_kl_target,
    ),
    "gradient": lambda options: PolicyGradient(options.outer_lr),
    "natural": lambda options: NaturalGradient(
        options.max_kl,
        options.cg_iterations,
        options.cg_damping,
        fisher_stride=round(1 / options.fisher_fraction),
    ),
    "reptile": lambda options: Reptile(options.outer_lr),
    "evolution": lambda options: EvolutionStrategies(options.outer_lr, options.sigma),
}
"""A new one is a class in a file of its own and a line here; options are those of `Config`."""
