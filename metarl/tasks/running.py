"""Wrappers of Gymnasium that keep statistics from one episode to the next."""

import gymnasium
from gymnasium.wrappers.utils import RunningMeanStd

INSTEAD = {
    "NormalizeObservation": "--normalise-observations",
    "NormalizeReward": "--normalise-rewards",
}
"""The option that does what a wrapper of Gymnasium does, with statistics that are the run's."""


def running_statistics(env: gymnasium.Env) -> list[str]:
    """A sentence with a remedy for each wrapper whose statistics change as the environment runs.

    Each environment then has statistics of its own, episodes depend on those before them, and
    neither checkpoints nor exported policies have the statistics. A wrapper that no longer changes
    them (`update_running_mean = False`) is as good as any other.
    """
    found = []
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        runs = any(isinstance(value, RunningMeanStd) for value in vars(layer).values())
        if runs and getattr(layer, "update_running_mean", True):
            name = type(layer).__name__
            option = INSTEAD.get(name)
            found.append(
                f"the wrapper {name} keeps running statistics: episodes depend on those before "
                "them, and neither checkpoints nor exported policies have the statistics; remove "
                f"it{f' and train with {option}' if option else ''}, or set its "
                "update_running_mean to False"
            )
        layer = layer.env
    return found
