"""Metrics of one's own: numbers in the `info` of an environment's steps, one for each episode."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import gymnasium
import torch
from torch import Tensor

from metarl.simulation.results import number_of, reset, step
from metarl.support.errors import UsageError, nearest
from metarl.support.foreign import START_LIMIT, Calling
from metarl.tasks.family import TaskFamily


@dataclass(frozen=True)
class InfoMetric:
    """A number of each episode."""

    name: str
    """Its key in the info."""
    mean: bool = False
    """Whether it is the mean over the episode's steps, or that of the last one."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The metric that NAME or NAME:mean says.

        Raises:
            UsageError: it has neither form.

        """
        name, colon, how = text.partition(":")
        if not name or (colon and how != "mean"):
            raise UsageError(
                f"--info-metrics {text} must be NAME, for the last step of an episode, or NAME:mean"
            )
        return cls(name, bool(colon))

    @property
    def label(self) -> str:
        """Its name among the metrics."""
        return f"{self.name}_mean" if self.mean else self.name


def per_episode(values: Tensor, valid: Tensor, metrics: Sequence[InfoMetric]) -> Tensor:
    """The metrics of each episode, NaN where its steps do not report one: [tasks, episodes, n].

    Args:
        values: [tasks, episodes, time, n] float64, NaN where a step does not report one.
        valid: [tasks, episodes, time], which steps there are.
        metrics: the n metrics.

    """
    last = (valid.sum(-1) - 1)[..., None, None].expand(*valid.shape[:2], 1, len(metrics))
    at_end = values.gather(2, last).squeeze(2)
    means = values.masked_fill(~valid.unsqueeze(-1), torch.nan).nanmean(2)
    wanted = torch.tensor([metric.mean for metric in metrics], device=values.device)
    return torch.where(wanted, means, at_end)


def expect_reported(metrics: Sequence[InfoMetric], family: TaskFamily, timeout: float) -> None:
    """Checks that the family's environment reports the metrics.

    Args:
        timeout: seconds that a step may take.

    Raises:
        UsageError: it does not; the message names the numbers that it reports.

    """
    known = _reported(family, timeout)
    for metric in metrics:
        if metric.name not in known:
            raise UsageError(
                f"--info-metrics {metric.name}: the info of {family.id} has no number of this "
                f"name; it has {', '.join(known) or 'none'}{nearest(metric.name, known)}"
            )


def _reported(family: TaskFamily, timeout: float) -> list[str]:
    """The keys of all numbers in the infos of one episode with random actions."""
    found: dict[str, None] = {}
    with Calling(lambda: f"{family.id}: __init__", max(timeout, START_LIMIT)):
        env: gymnasium.Env = family.make()
    with Calling(lambda: f"{family.id}: an episode of random actions", timeout) as calling:
        env.action_space.seed(0)
        reset(env, seed=0)
        for _ in range(family.horizon):
            calling.again()
            *_, terminated, truncated, info = step(env, env.action_space.sample())
            found |= {name: None for name, value in info.items() if number_of(value) is not None}
            if terminated or truncated:
                break
        env.close()
    return list(found)
