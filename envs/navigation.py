"""Navigation in the plane: a point moves to a goal that it does not see.

Sources: Finn, Abbeel, Levine 2017 (arXiv 1703.03400), section 5.3, and its code; Rothfuss et al.
2018 (ProMP, arXiv 1810.06784): corners; Rakelly et al. 2019 (PEARL, arXiv 1903.08254): half-circle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.tasks.declaration import Array, DynamicsFamily
from metarl.tasks.distributions import Choice, TaskDistribution, Uniform
from metarl.tasks.noise import Noise

GOAL_TOLERANCE = 0.01  # per coordinate


@dataclass(frozen=True)
class Point(DynamicsFamily):
    """A point that moves by its action, clipped."""

    largest_step: ClassVar[float] = 0.1  # per coordinate

    action_scale: float = 0.1
    """The largest step, because the published implementations do not scale the policy's actions."""

    @property
    def observation_space(self) -> spaces.Box:
        """The position."""
        return spaces.Box(-np.inf, np.inf, (2,), np.float64)

    @property
    def action_space(self) -> spaces.Box:
        """The displacement, clipped."""
        return spaces.Box(-self.largest_step, self.largest_step, (2,), np.float32)

    def initial(self, noise: Noise) -> Array:
        """The origin."""
        return noise.zeros(2)

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """x ← x + clip(a, ±largest_step)."""
        xp = array_namespace(state)
        return state + xp.clip(action, -self.largest_step, self.largest_step)

    def observe(self, state: Array) -> Array:
        """The position: [..., 2]."""
        return state

    def goal(self, task: Mapping[str, Array]) -> Array:
        """The goal's position: [..., 2]."""
        return task["goal"]

    def info(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """`distance` to the goal after the move."""
        return {"distance": _distance(after, self.goal(task))}


@dataclass(frozen=True)
class Navigation2D(Point):
    """Move from the origin to a goal in [−range, range]²: r = −‖x − goal‖₂ after the move."""

    source: ClassVar[str] = "Finn 2017"
    # experiments/benchmarks/results/outer_update.txt
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"maml-trpo": {"max_kl": 0.03}}

    goal_range: float = 0.5
    """Half the side of the square of training goals; `beyond` draws goals outside it."""
    variant: Literal["dense", "sparse"] = "dense"
    """`sparse`: r = 1 − ‖x − goal‖₂ within .2 of the goal, 0 elsewhere, as on the half-circle."""

    @property
    def tasks(self) -> TaskDistribution:
        """Coordinates of the goal; `beyond` extends their range by half."""
        r, wide = self.goal_range, 1.5 * self.goal_range
        return TaskDistribution(goal=Uniform(-r, r, (2,), beyond=(-wide, wide)))

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """−‖x − goal‖₂, or the sparse reward."""
        distance = _distance(after, task["goal"])
        return -distance if self.variant == "dense" else _near(distance, SparsePointRobot.radius)

    def terminated(self, state: Array, task: Mapping[str, Array]) -> Array:
        """Whether both coordinates are within .01 of the goal."""
        xp = array_namespace(state)
        return xp.all(xp.abs(state - task["goal"]) < GOAL_TOLERANCE, axis=-1)


@dataclass(frozen=True)
class NavigationCorners(Point):
    """Move from near the origin to a corner (±2, ±2) by steps up to ±.2; never ends early.

    Three corners are for training and one is held out.
    """

    largest_step: ClassVar[float] = 0.2
    source: ClassVar[str] = "ProMP"

    action_scale: float = 0.2
    """The largest step, as in the other families of points."""
    variant: Literal["sparse", "dense"] = "sparse"
    """`sparse`: the progress towards the goal if it is the nearest corner and |x| + |y| ≥ .5, else
    0. `dense`: r = −‖x − goal‖₂."""

    @property
    def tasks(self) -> TaskDistribution:
        """The corner."""
        return TaskDistribution(goal=Choice(((-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0))))

    def initial(self, noise: Noise) -> Array:
        """Uniform over [−.2, .2]²."""
        return noise.uniform(-0.2, 0.2, 2)

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """Minus the distance, or the progress in the goal's quadrant."""
        xp = array_namespace(after)
        distance = _distance(after, task["goal"])
        if self.variant == "dense":
            return -distance
        nearest = xp.all(after * task["goal"] >= 0, axis=-1)
        away = xp.sum(xp.abs(after), axis=-1) >= 0.5
        return xp.where(nearest & away, _distance(before, task["goal"]) - distance, 0.0 * distance)


@dataclass(frozen=True)
class SparsePointRobot(Point):
    """Move to a goal on the upper unit half-circle: r = 1 − ‖x − goal‖₂ within .2, else 0."""

    radius: ClassVar[float] = 0.2
    source: ClassVar[str] = "PEARL, VariBAD"

    @property
    def tasks(self) -> TaskDistribution:
        """The goal's angle from the x axis."""
        return TaskDistribution(angle=Uniform(0.0, np.pi, unit="rad"))

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """1 less the distance near the goal, else 0."""
        return _near(_distance(after, self.goal(task)), self.radius)

    def goal(self, task: Mapping[str, Array]) -> Array:
        """On the unit circle."""
        xp = array_namespace(task["angle"])
        return xp.stack([xp.cos(task["angle"]), xp.sin(task["angle"])], axis=-1)


def _distance(x: Array, goal: Array) -> Array:
    xp = array_namespace(x)
    return xp.sqrt(xp.sum((x - goal) ** 2, axis=-1))


def _near(distance: Array, radius: float) -> Array:
    return (1.0 - distance) * (distance <= radius)
