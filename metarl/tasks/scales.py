"""Warnings about observations and actions whose range is far from 1."""

import numpy as np
from gymnasium import spaces

OBSERVATIONS = (0.01, 100.0)
"""Root mean square of an observation's largest entry: networks expect inputs of about 1."""
ACTIONS = (0.05, 20.0)
"""Half the width of a range of actions: at first a policy explores with a σ of about 1."""


def scale_warnings(observations: np.ndarray, action_space: spaces.Space[object]) -> list[str]:
    """One sentence for each range that is far from 1: what it is, and what to do.

    Args:
        observations: [number, ...], as seen under some policy.
        action_space: bounded where it is a Box; other spaces have no scale.

    """
    warnings = []
    low, high = OBSERVATIONS
    size = observation_scale(observations)
    if size and not low <= size <= high:
        warnings.append(
            f"observations have entries of about {size:.2g}, and a network learns little from "
            "inputs that far from 1: rescale them, or train with --normalise-observations"
        )
    low, high = ACTIONS
    warnings += [
        f"a range of actions is {2 * half:.3g} wide, where the policy's first σ is about 1: let "
        "the environment take actions in ±1 (gymnasium.wrappers.RescaleAction, or the option "
        "action_scale of a MuJoCo family)"
        for half in sorted(set(action_scales(action_space)))
        if not low <= half <= high
    ]
    return warnings


def observation_scale(observations: np.ndarray) -> float:
    """Root mean square of the entry where it is largest, of observations [number, ...]."""
    squares = np.square(np.asarray(observations, np.float64)).mean(0)
    return float(np.sqrt(np.max(squares, initial=0)))


def action_scales(action_space: spaces.Space[object]) -> list[float]:
    """Half the width of the range of each bounded action; none where actions are discrete."""
    if not isinstance(action_space, spaces.Box):
        return []
    half = (np.float64(action_space.high) - np.float64(action_space.low)) / 2
    return [float(width) for width in np.ravel(half) if 0 < width < np.inf]
