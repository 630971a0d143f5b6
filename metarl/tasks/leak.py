"""How much of a task can be told from observations."""

from collections.abc import Container

import numpy as np

from metarl.tasks.task import Tasks


def explained_variance(x: np.ndarray, tasks: Tasks, visible: Container[str]) -> tuple[float, str]:
    """The largest share of a parameter's variance that x [tasks, entries] explains, and its name.

    The parameters are regressed on the entries and their squares by ridge regression; the share is
    measured on held-out tasks.
    """
    number = len(x)
    x = _standardised(np.concatenate([x, x**2], axis=1))
    half = number // 2
    worst, where = 0.0, ""
    for name, values in tasks.items():
        if name in visible:
            continue
        y = _standardised(values.reshape(number, -1).astype(np.float64))
        predicted = _ridge(x[:half], y[:half], x[half:])
        spread = y[half:].var(0)
        explained = 1 - np.mean((predicted - y[half:]) ** 2, 0) / np.where(spread > 0, spread, 1)
        best = float(np.where(spread > 0, explained, 0).max(initial=0))
        if best > worst:
            worst, where = best, name
    return worst, where


def _ridge(x: np.ndarray, y: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Predictions for the other rows [m, entries], by ridge regression on [n, entries] and [n, k].

    (XᵀX + I)⁻¹ Xᵀ = Xᵀ (XXᵀ + I)⁻¹, whose matrix is [n, n] however many entries an image has.
    """
    rows, entries = x.shape
    weights: np.ndarray
    if rows < entries:
        weights = x.T @ np.linalg.solve(x @ x.T + np.eye(rows), y)
    else:
        weights = np.linalg.solve(x.T @ x + np.eye(entries), x.T @ y)
    predicted: np.ndarray = others @ weights
    return predicted


def _standardised(x: np.ndarray) -> np.ndarray:
    std = x.std(0)
    # An entry that varies only by rounding counts as constant.
    varies = std > 1e-9 * (1 + np.abs(x).max(0))
    result: np.ndarray = np.where(varies, (x - x.mean(0)) / np.where(varies, std, 1), 0)
    return result
