"""A callback of one's own: ends the run after a number of environment steps.

From this folder:

    metarl train --family envs:Navigation2D-v0 --callbacks env_budget:env_budget
"""

from collections.abc import Mapping

from metarl import BaseLearner

BUDGET = 1_000_000
"""Environment steps."""


def env_budget(learner: BaseLearner, metrics: Mapping[str, float]) -> str | None:
    """The reason to end the run, once it has taken the environment steps."""
    if metrics["env_steps"] < BUDGET:
        return None
    return f"{metrics['env_steps']:,.0f} environment steps are taken"
