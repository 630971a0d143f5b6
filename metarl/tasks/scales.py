"""Warnings about observations and actions whose scale is far from what a policy expects."""

import numpy as np
from gymnasium import spaces

OBSERVATIONS = (0.01, 100.0)
"""Accepted root mean square of the largest entry of observations; networks expect about 1."""
SHARES = (0.01, 20.0)
"""Accepted initial standard deviation of a policy, as a share of half the range of actions."""


def observation_warnings(observations: np.ndarray) -> list[str]:
    """A sentence with a remedy where observations [number, ...] are far from what a network wants.

    They are observations as seen under some policy.
    """
    low, high = OBSERVATIONS
    size = observation_scale(observations)
    if not size or low <= size <= high:
        return []
    return [
        f"observations have entries of about {size:.2g}, and a network learns little from inputs "
        "that far from 1: rescale them, or train with --normalise-observations"
    ]


def action_warnings(action_space: spaces.Space[object], action_scale: float) -> list[str]:
    """A sentence with a remedy where a new policy explores far less or more than the range.

    Args:
        action_space: of the environment; only a bounded Box has a range.
        action_scale: policy actions from -scale to scale cover that range.

    """
    low, high = SHARES
    if not is_bounded(action_space) or low <= 1 / action_scale <= high:
        return []
    return [
        f"a new policy explores {1 / action_scale:.2g} of half the range of actions: train with "
        "--action-scale 1 to explore all of it"
    ]


def observation_scale(observations: np.ndarray) -> float:
    """The largest root mean square of an entry of the observations [number, ...]."""
    squares = np.square(np.asarray(observations, np.float64)).mean(0)
    return float(np.sqrt(np.max(squares, initial=0)))


def is_bounded(action_space: spaces.Space[object]) -> bool:
    """Whether some entry of the actions has a finite range."""
    return isinstance(action_space, spaces.Box) and bool(
        (np.isfinite(action_space.low) & np.isfinite(action_space.high)).any()
    )
