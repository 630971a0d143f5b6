"""Returns on held-out tasks after 0..K inner steps, with intervals over tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from metarl.evaluation.statistics import (
    STATISTICS,
    interquartile_mean,
    interval,
    stratified_indices,
    tail_mean,
)
from metarl.support.text import counted
from metarl.support.types import Json

EVALUATED_SPLITS = ("test", "train", "beyond")
"""Splits that `metarl evaluate` evaluates by default, where the family has them."""


def judging_split(splits: Sequence[str]) -> str | None:
    """The split by which a run is judged: the first that is not of training's tasks, if any is."""
    return next((split for split in splits if split != "train"), next(iter(splits), None))


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Mean returns on tasks of a split, by inner step."""

    split: str
    tasks: dict[str, np.ndarray]  # [tasks, ...]
    returns: np.ndarray  # [steps + 1, tasks], means over episodes
    seed: int = 0  # seed of the bootstrap
    groups: tuple[str, ...] = ()  # task i belongs to group i mod len(groups)
    success: np.ndarray | None = None  # [steps + 1, tasks], share of the episodes; None if unknown
    runs: int = 1  # number of runs that `tasks` come from, equally many each, run by run
    episodes: int = 0  # episodes per task that each step learns from
    env_steps: np.ndarray | None = None  # [steps + 1], per task: those before step k is done
    paths: Sequence[np.ndarray] | None = None  # each [tasks, time, 2]; NaN after the end
    adaptations: np.ndarray | None = None  # [steps + 1, tasks, n]; `returns` are means over n
    measure: str = "return"
    """What `returns` are; few-shot learning has another measure, such as accuracy."""
    higher_is_better: bool = True
    held_out: bool = True
    """Whether some of the tasks are none of training."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Units of the task parameters that have one."""
    info: Mapping[str, np.ndarray] = field(default_factory=dict)  # [steps + 1, tasks] by label

    def __repr__(self) -> str:
        steps, tasks = self.returns.shape
        means = ", ".join(f"{mean:.4g}" for mean in self.returns.mean(1))
        after = f"means after 0 to {steps - 1} inner steps: {means}"
        return f"Evaluation({self.split}, {counted(tasks, 'task')}; {after})"

    def metrics(self) -> dict[str, float]:
        """`<split>/step_k/mean`, `iqm`, and `low` and `high`, the 95 % interval of the mean.

        `<split>/step_k/tail` is the mean of the worst tenth of the tasks.

        Several groups add the same for each, as `<split>/<group>/step_k/mean`. Where the success of
        episodes is known, `<split>/step_k/success` is its rate; `<split>/step_k/info/<label>` is
        the mean of a number in the environments' info.
        """
        metrics = _tagged(self.split, self.returns, self._resampled(self.returns.shape[1]))
        for k, returns in enumerate(self.returns):
            metrics[f"{self.split}/step_{k}/tail"] = float(self._tail(returns))
        if self.success is not None:
            rates = enumerate(self.success.mean(1).tolist())
            metrics |= {f"{self.split}/step_{k}/success": rate for k, rate in rates}
        for k in range(len(self.returns)):
            means = self._info_means(k).items()
            metrics |= {f"{self.split}/step_{k}/info/{label}": mean for label, mean in means}
        for i, group in enumerate(self.groups):
            if len(self.groups) > 1:
                own = self.returns[:, i :: len(self.groups)]
                resampled = self._resampled(own.shape[1])
                metrics |= _tagged(f"{self.split}/{group}", own, resampled)
        return metrics

    def summary(self) -> Json:
        """The entry of a split in evaluation.json: aggregates of each step, and every task.

        The interval of the gain over step 0 is that of differences between the same tasks.
        """
        resampled = self._resampled(self.returns.shape[1])
        steps = []
        for k, returns in enumerate(self.returns):
            step: Json = {"step": k, "episodes": k * self.episodes}
            if self.env_steps is not None:
                step["env_steps"] = float(self.env_steps[k])
            for name, statistic in (STATISTICS | {"tail": self._tail}).items():
                low, high = interval(returns, statistic, resampled)
                step[name] = {"value": float(statistic(returns)), "low": low, "high": high}
            gains = returns - self.returns[0]
            low, high = interval(gains, STATISTICS["mean"], resampled)
            step["gain"] = {"value": float(gains.mean()), "low": low, "high": high}
            step["hurt"] = self.hurt(k)
            if self.success is not None:
                step["success"] = float(self.success[k].mean())
            if self.info:
                step["info"] = self._info_means(k)
            steps.append(step)
        tasks: list[Json] = []
        for i, returns in enumerate(self.returns.T):
            task = {name: values[i].tolist() for name, values in self.tasks.items()}
            tasks.append({"task": task, "returns": returns.tolist()})
            if self.adaptations is not None:
                tasks[-1]["adaptations"] = self.adaptations[:, i].T.tolist()
            if self.success is not None:
                tasks[-1]["success"] = self.success[:, i].tolist()
            if self.info:
                own = {label: values[:, i].tolist() for label, values in self.info.items()}
                # JSON has no NaN, where no episode of a task reports the number.
                tasks[-1]["info"] = {n: [x if x == x else None for x in v] for n, v in own.items()}
        return {"steps": steps, "tasks": tasks}

    def hurt(self, step: int) -> float:
        """Share of the tasks that are worse after `step` inner steps than at step 0."""
        sign = 1 if self.higher_is_better else -1
        return float((sign * (self.returns[step] - self.returns[0]) < 0).mean())

    def _tail(self, values: np.ndarray) -> np.ndarray:
        """Mean of the worst tenth, which are the highest values where lower is better."""
        return tail_mean(values) if self.higher_is_better else -tail_mean(-values)

    def _info_means(self, step: int) -> dict[str, float]:
        """The mean of each number over the tasks that report it, if there are any."""
        reported = {label: x[step][~np.isnan(x[step])] for label, x in self.info.items()}
        return {label: float(x.mean()) for label, x in reported.items() if len(x)}

    def _resampled(self, tasks: int) -> np.ndarray:
        return stratified_indices(np.random.default_rng(self.seed), self.runs, tasks // self.runs)


def _tagged(name: str, returns_by_step: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for k, returns in enumerate(returns_by_step):
        low, high = interval(returns, STATISTICS["mean"], resampled)
        metrics |= {
            f"{name}/step_{k}/mean": float(returns.mean()),
            f"{name}/step_{k}/iqm": float(interquartile_mean(returns)),
            f"{name}/step_{k}/low": low,
            f"{name}/step_{k}/high": high,
        }
    return metrics
