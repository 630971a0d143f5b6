"""Reacher families: an arm of two links whose tip moves to a hidden goal.

They are Gymnasium's Reacher-v5 with the target as the task instead of an observation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.tasks.declaration import Array, Fields, MujocoFamily
from metarl.tasks.distributions import Ball, TaskDistribution
from metarl.tasks.noise import Noise

from .locomotion import squared

UPPER, LOWER = 0.1, 0.11  # m; lengths of the links, to the fingertip


@dataclass(frozen=True)
class ReacherGoal(MujocoFamily):
    """Move the tip to g in the disc of radius .2: r = −‖tip − g‖ − ‖a‖², as in Reacher-v5."""

    xml: ClassVar[str] = "reacher.xml"
    contacts: ClassVar[int] = 4
    constraints: ClassVar[int] = 16
    control_timestep: ClassVar[float] = 0.02  # s
    source: ClassVar[str] = "Gymnasium"

    @property
    def tasks(self) -> TaskDistribution:
        """Coordinates of the goal."""
        return TaskDistribution(goal=Ball(0.2, 2, unit="m"))

    @property
    def observation_space(self) -> spaces.Box:
        """Cosines and sines of the angles, their velocities, and the tip."""
        return spaces.Box(-np.inf, np.inf, (8,), np.float64)

    def initial(self, noise: Noise, qpos: Array, qvel: Array) -> tuple[Array, Array]:
        """Noise of ±.1 in the angles and ±.005 in their velocities; the model's target at rest."""
        xp = array_namespace(qpos)
        angles = qpos[..., :2] + noise.uniform(-0.1, 0.1, 2)
        speeds = qvel[..., :2] + noise.uniform(-0.005, 0.005, 2)
        return (
            xp.concat([angles, qpos[..., 2:]], axis=-1),
            xp.concat([speeds, qvel[..., 2:]], axis=-1),
        )

    def observe(self, state: Fields) -> Array:
        """The observation of Reacher-v5 without the target."""
        xp = array_namespace(state.qpos)
        angles = state.qpos[..., :2]
        parts = [xp.cos(angles), xp.sin(angles), state.qvel[..., :2], self.tip(state)]
        return xp.concat(parts, axis=-1)

    def tip(self, state: Fields) -> Array:
        """Coordinates of the fingertip, m: [..., 2]."""
        xp = array_namespace(state.qpos)
        first = state.qpos[..., 0]
        both = first + state.qpos[..., 1]
        x = UPPER * xp.cos(first) + LOWER * xp.cos(both)
        y = UPPER * xp.sin(first) + LOWER * xp.sin(both)
        return xp.stack([x, y], axis=-1)

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """−‖tip − g‖ − ‖a‖²."""
        xp = array_namespace(control)
        return -xp.sqrt(squared(self.tip(after) - task["goal"])) - squared(control)
