"""Statistics of returns, and their stratified bootstrap intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np

BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95


def stratified_indices(
    generator: np.random.Generator, strata: int, size: int, samples: int = BOOTSTRAP_SAMPLES
) -> np.ndarray:
    """Indices of bootstrap samples, drawn with replacement within each stratum.

    Stratum s is the values s · size to (s + 1) · size − 1 (Agarwal et al. 2021, arXiv 2108.13264,
    section 4.1, where the tasks are the strata and the runs are drawn; held-out tasks are drawn
    here, and the runs, which are few, are the strata).

    Returns:
        [samples, strata · size].

    """
    drawn = generator.integers(size, size=(samples, strata, size))
    indices: np.ndarray = (drawn + size * np.arange(strata)[:, None]).reshape(samples, -1)
    return indices


def interval(
    values: np.ndarray, statistic: Callable[[np.ndarray], Any], resampled: np.ndarray
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over the last axis: [n], [samples, n]."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistic(values[resampled]), (tail, 1 - tail))
    return float(low), float(high)


def interquartile_mean(values: np.ndarray) -> Any:
    """Mean of the middle half along the last axis (Agarwal et al. 2021): [..., n] -> [...].

    A quarter is cut each side, rounded down to whole values, as
    `scipy.stats.trim_mean(values, 0.25)` does.
    """
    cut = values.shape[-1] // 4
    return np.sort(values)[..., cut : values.shape[-1] - cut].mean(-1)


STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {
    "mean": lambda values: values.mean(-1),
    "median": lambda values: np.median(values, -1),
    "iqm": interquartile_mean,
}
