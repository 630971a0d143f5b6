"""Statistics of returns and their stratified bootstrap intervals."""

from collections.abc import Callable

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""A statistic over the last axis: [..., n] -> [...]."""

BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95
TAIL = 10
"""The tail is one part of so many."""


def stratified_indices(
    generator: np.random.Generator, strata: int, size: int, samples: int = BOOTSTRAP_SAMPLES
) -> np.ndarray:
    """Draws indices of bootstrap samples with replacement within each stratum.

    Stratum s consists of the values s · size to (s + 1) · size − 1. In Agarwal et al. 2021 (arXiv
    2108.13264, section 4.1) the tasks are the strata and the runs are resampled. Here the runs,
    which are few, are the strata, and the held-out tasks are resampled.

    Returns:
        [samples, strata · size].

    """
    drawn = generator.integers(size, size=(samples, strata, size))
    indices: np.ndarray = (drawn + size * np.arange(strata)[:, None]).reshape(samples, -1)
    return indices


def interval(
    values: np.ndarray, statistic: Statistic, resampled: np.ndarray
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of values [n]; `resampled` is [samples, n]."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistic(values[resampled]), (tail, 1 - tail))
    return float(low), float(high)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis (Agarwal et al. 2021): [..., n] -> [...].

    A quarter of the values, rounded down, is cut at each end, as in
    `scipy.stats.trim_mean(values, 0.25)`.
    """
    cut = values.shape[-1] // 4
    means: np.ndarray = np.sort(values)[..., cut : values.shape[-1] - cut].mean(-1)
    return means


def tail_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the lowest tenth along the last axis, at least of one value: [..., n] -> [...].

    The conditional value at risk at level .1, CVaR = E[x | x ≤ q], of the tasks as they are.
    """
    number = -(-values.shape[-1] // TAIL)
    means: np.ndarray = np.sort(values)[..., :number].mean(-1)
    return means


STATISTICS: dict[str, Statistic] = {
    "mean": lambda values: values.mean(-1),
    "median": lambda values: np.median(values, -1),
    "iqm": interquartile_mean,
    "tail": tail_mean,
}
