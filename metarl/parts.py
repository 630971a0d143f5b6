"""From the options of a run to the inner loop and the outer loop that they name."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from metarl.adaptation import InnerLoop, every_parameter
from metarl.config import Config
from metarl.objective import policy_objective
from metarl.outer.evolution import EvolutionStrategies
from metarl.outer.policy_gradient import PolicyGradient
from metarl.outer.ppo import PPO
from metarl.outer.reptile import Reptile
from metarl.outer.trpo import TRPO
from metarl.policy import CONTEXT, CategoricalPolicy, GaussianPolicy, Parameters
from metarl.surrogate import SURROGATES


class OuterLoop(Protocol):
    """What a meta-update is to the learner."""

    def step(self, objective: Any, parameters: Parameters) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""


OUTER_LOOPS: dict[str, Callable[[Config], OuterLoop]] = {
    "trpo": lambda config: TRPO(
        max_kl=config.max_kl,
        cg_iterations=config.cg_iterations,
        cg_damping=config.cg_damping,
        line_search_steps=config.line_search_steps,
        line_search_ratio=config.line_search_ratio,
        fisher_stride=round(1 / config.fisher_fraction),
    ),
    "ppo": lambda config: PPO(
        config.outer_lr,
        config.ppo_epochs,
        config.clip,
        config.inner_kl_penalty,
        config.inner_kl_target,
    ),
    "gradient": lambda config: PolicyGradient(config.outer_lr),
    "reptile": lambda config: Reptile(config.outer_lr),
    "evolution": lambda config: EvolutionStrategies(config.outer_lr, config.sigma),
}


def make_inner_loop(
    config: Config, policy: GaussianPolicy | CategoricalPolicy, device: torch.device
) -> InnerLoop:
    """The inner loop of the options."""
    first_order = config.estimator == "first_order"
    surrogate = SURROGATES["lvc" if first_order else config.estimator]
    adapts: Callable[[str], bool] = {
        "all": every_parameter,
        "head": policy.head.__contains__,
        "context": CONTEXT.__eq__,
    }[config.adapts]
    fresh = {CONTEXT: torch.zeros(policy.context_size, device=device)}
    return InnerLoop(
        policy_objective(policy, surrogate),
        config.inner_lr,
        adapts=adapts,
        fresh=fresh if config.adapts == "context" else {},
        first_order=first_order,
    )
