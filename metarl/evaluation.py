"""Returns on held-out tasks after 0..K inner steps, with intervals over tasks."""

from dataclasses import dataclass

import numpy as np

BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Evaluation:
    """Mean returns of an evaluation's tasks."""

    split: str
    tasks: dict[str, np.ndarray]  # [tasks, ...]
    returns: np.ndarray  # [steps + 1, tasks], means over episodes
    generator: np.random.Generator  # of the bootstrap
    groups: tuple[str, ...] = ()  # task i belongs to group i modulo their number
    success: np.ndarray | None = None  # [steps + 1, tasks], shares of episodes, if it is told

    def metrics(self) -> dict[str, float]:
        """`<split>/step_k/mean`, `iqm`, and `low`, `high`: the 95 % interval of the mean.

        With several groups also `<split>/<group>/step_k/mean` and the interval of each; where
        success is told, `<split>/step_k/success`, its rate.
        """
        metrics = self._interval(self.split, self.returns)
        if self.success is not None:
            rates = enumerate(self.success.mean(1).tolist())
            metrics |= {f"{self.split}/step_{k}/success": rate for k, rate in rates}
        for i, group in enumerate(self.groups):
            if len(self.groups) > 1:
                own = self.returns[:, i :: len(self.groups)]
                metrics |= self._interval(f"{self.split}/{group}", own)
        return metrics

    def _interval(self, name: str, returns_by_step: np.ndarray) -> dict[str, float]:
        number = returns_by_step.shape[1]
        resampled = self.generator.integers(number, size=(BOOTSTRAP_SAMPLES, number))
        metrics: dict[str, float] = {}
        for k, returns in enumerate(returns_by_step):
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(returns[resampled].mean(axis=1), (tail, 1 - tail))
            metrics |= {
                f"{name}/step_{k}/mean": float(returns.mean()),
                f"{name}/step_{k}/iqm": interquartile_mean(returns),
                f"{name}/step_{k}/low": float(low),
                f"{name}/step_{k}/high": float(high),
            }
        return metrics


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264): a quarter is cut each side.

    The quarter is rounded down to whole values, as `scipy.stats.trim_mean(values, 0.25)` does.
    """
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())
