"""What policies and environments gave in a rollout: the first number that is infinite or NaN."""

import torch
from torch import Tensor

from metarl.sampling.data import Rollout
from metarl.support.errors import NonFiniteError
from metarl.support.finite import not_finite
from metarl.support.looks import read

REMEDIES = {
    "the policy sees": "to find divisions by 0 and unstable physics in the environment",
    "the environment": "to find divisions by 0 and unstable physics in the environment",
    "rewards": "smaller rewards",
}
"""By what gave the number; for the others, that of the learner."""


def expect_finite_rollout(rollout: Rollout) -> None:
    """Checks the numbers of a rollout.

    Raises:
        NonFiniteError: names the first one in time that is infinite or NaN; `tasks` are all tasks
            that have one.

    """
    # Of one step in the order of cause and effect.
    per_step = {
        "the policy sees an observation": rollout.observations,
        "the policy gave an action": rollout.actions,
        "an action has a log-probability": rollout.log_probs,
        "the environment gave a reward": rollout.rewards,
    }
    last = {
        "the policy sees an observation": rollout.final_observations.unsqueeze(2),
        "rewards have a sum": rollout.returns.unsqueeze(2),
    }
    every = (*per_step.values(), *last.values())
    if all(read(*(values.isfinite().all() for values in every))):
        return
    steps = rollout.valid.sum(-1)
    nothing = torch.zeros_like(steps)
    found = [_first(what, values, nothing) for what, values in per_step.items()]
    found += [_first(what, values, steps) for what, values in last.items()]
    step, what, value = min((one for one in found if one is not None), key=lambda one: one[0])
    raise NonFiniteError(
        f"{what} that is not finite: {value:g} at step {step} of an episode",
        not_finite(*every).nonzero().flatten().tolist(),
        next((remedy for begin, remedy in REMEDIES.items() if what.startswith(begin)), ""),
    )


def _first(what: str, values: Tensor, begin: Tensor) -> tuple[int, str, float] | None:
    """The step, what it is, and the first value [tasks, episodes, time, ...] that is not finite.

    Args:
        begin: the step of the first value of each episode: [tasks, episodes].

    """
    places = (~values.isfinite()).nonzero()
    if not len(places):
        return None
    steps = places[:, 2] + begin[places[:, 0], places[:, 1]]
    first = int(steps.argmin())
    return int(steps[first]), what, values[tuple(places[first])].item()
