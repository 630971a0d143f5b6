"""From the options of a run to the inner loop that they name."""

from collections.abc import Callable

import torch

from metarl.adaptation import InnerLoop, every_parameter
from metarl.config import Config
from metarl.objective import policy_objective
from metarl.policy import CONTEXT, CategoricalPolicy, GaussianPolicy
from metarl.surrogate import SURROGATES


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
