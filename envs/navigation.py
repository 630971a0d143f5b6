"""Navigation in the plane: a point moves to a goal that it does not see.

Source: Finn, Abbeel, Levine 2017 (arXiv 1703.03400), section 5.3, and its code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.declaration import Array, DynamicsFamily
from metarl.distributions import TaskDistribution, Uniform

LARGEST_STEP = 0.1  # per coordinate
GOAL_TOLERANCE = 0.01  # per coordinate


@dataclass(frozen=True)
class Navigation2D(DynamicsFamily):
    """From the origin to a goal in [−range, range]²: r = −‖x − goal‖₂ after the move."""

    goal_range: float = 0.5
    """Half the side of the square of training goals; `beyond` draws outside it."""

    @property
    def tasks(self) -> TaskDistribution:
        """Coordinates of the goal; half as far again is beyond."""
        r, wide = self.goal_range, 1.5 * self.goal_range
        return TaskDistribution(goal=Uniform(-r, r, (2,), beyond=(-wide, wide)))

    @property
    def observation_space(self) -> spaces.Box:
        """The position."""
        return spaces.Box(-np.inf, np.inf, (2,), np.float64)

    @property
    def action_space(self) -> spaces.Box:
        """The displacement, clipped."""
        return spaces.Box(-LARGEST_STEP, LARGEST_STEP, (2,), np.float32)

    def initial(self, generator: np.random.Generator) -> np.ndarray:
        """The origin."""
        return np.zeros(2)

    def transition(self, state: Array, action: Array, task: Mapping[str, Array]) -> Array:
        """x ← x + clip(a, ±.1)."""
        xp = array_namespace(state)
        return state + xp.clip(action, -LARGEST_STEP, LARGEST_STEP)

    def observe(self, state: Array) -> Array:
        """The position: [..., 2]."""
        return state

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """−‖x − goal‖₂."""
        xp = array_namespace(after)
        return -xp.sqrt(xp.sum((after - task["goal"]) ** 2, axis=-1))

    def terminated(self, state: Array, task: Mapping[str, Array]) -> Array:
        """Within .01 of the goal in both coordinates."""
        xp = array_namespace(state)
        return xp.all(xp.abs(state - task["goal"]) < GOAL_TOLERANCE, axis=-1)
