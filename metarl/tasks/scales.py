"""Warnings about observations and actions whose scale is far from what a policy expects."""

import numpy as np
from gymnasium import spaces

OBSERVATIONS = (0.01, 100.0)
"""Root mean square of an observation's largest entry: networks expect inputs of about 1."""
SHARES = (0.01, 20.0)
"""Share of half the range of actions that a policy explores with at first, σ = 1."""


def scale_warnings(
    observations: np.ndarray, action_space: spaces.Space[object], action_scale: float
) -> list[str]:
    """One sentence for each scale that is far from what a policy expects, with the remedy.

    Args:
        observations: [number, ...], as seen under some policy.
        action_space: of the environment; bounded where it is a Box, other spaces have no scale.
        action_scale: policy actions from -scale to scale cover the bounded range.

    """
    warnings = []
    low, high = OBSERVATIONS
    size = observation_scale(observations)
    if size and not low <= size <= high:
        warnings.append(
            f"observations have entries of about {size:.2g}, and a network learns little from "
            "inputs that far from 1: rescale them, or train with --normalise-observations"
        )
    low, high = SHARES
    if is_bounded(action_space) and not low <= 1 / action_scale <= high:
        warnings.append(
            f"the policy explores at first with {1 / action_scale:.2g} of half the range of "
            "actions: --action-scale 1 makes that the whole half"
        )
    return warnings


def observation_scale(observations: np.ndarray) -> float:
    """Root mean square of the entry where it is largest, of observations [number, ...]."""
    squares = np.square(np.asarray(observations, np.float64)).mean(0)
    return float(np.sqrt(np.max(squares, initial=0)))


def is_bounded(action_space: spaces.Space[object]) -> bool:
    """Whether an entry of the actions has a finite range."""
    return isinstance(action_space, spaces.Box) and bool(
        (np.isfinite(action_space.low) & np.isfinite(action_space.high)).any()
    )
