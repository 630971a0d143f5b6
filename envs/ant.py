"""Ant families: a quadruped that runs in a direction, at a speed, or to a place.

Sources: Finn, Abbeel, Levine 2017 (`finn`, arXiv 1703.03400, and its code); Rothfuss et al. 2018
(`promp`, arXiv 1810.06784); Rakelly et al. 2019 (PEARL, arXiv 1903.08254) use those of `promp`. The
physics are Gymnasium's Ant-v5. C = Σ clip(cfrc_ext, ±1)², a the control in ±1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.tasks.declaration import Array, Fields
from metarl.tasks.distributions import Ball, Choice, TaskDistribution, Uniform

from .locomotion import Locomotion, contact_cost, squared

LOWEST, HIGHEST = 0.2, 1.0  # m; bounds of the torso's height, outside which the episode ends


@dataclass(frozen=True)
class Ant(Locomotion):
    """What the ant families share."""

    xml: ClassVar[str] = "ant.xml"
    contacts: ClassVar[int] = 16
    constraints: ClassVar[int] = 64
    control_timestep: ClassVar[float] = 0.05  # s
    fields: ClassVar[tuple[str, ...]] = ("qpos", "qvel", "cfrc_ext")
    reset_noise: ClassVar[float] = 0.1
    normal_velocities: ClassVar[bool] = True
    source: ClassVar[str] = "Finn 2017, ProMP"
    # experiments/benchmarks/results/outer_update.txt
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"maml": {"max_kl": 0.1}}

    observation: Literal["joints", "contacts"] = "joints"
    """`joints`: positions without x and y, and velocities (27). `contacts`: also the forces on each
    body, clipped to ±1 (105), as in Gymnasium's Ant-v5."""

    @property
    def observation_space(self) -> spaces.Box:
        """Unbounded, 27 or 105 numbers."""
        size = 105 if self.observation == "contacts" else 27
        return spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def observe(self, state: Fields) -> Array:
        """Joints, and contact forces if `observation` is `contacts`."""
        xp = array_namespace(state.qpos)
        parts = [state.qpos[..., 2:], state.qvel]
        if self.observation == "contacts":
            forces = xp.clip(state.cfrc_ext[..., 1:, :], -1.0, 1.0)
            parts.append(xp.reshape(forces, (*forces.shape[:-2], -1)))
        return xp.concat(parts, axis=-1)

    def terminated(self, state: Fields, task: Mapping[str, Array]) -> Array | None:
        """The torso is too low or too high: z ∉ [.2, 1]."""
        z = state.qpos[..., 2]
        return (z < LOWEST) | (z > HIGHEST)

    def finn_costs(self, control: Array, after: Fields) -> Array:
        """.005 ‖a‖² + .0005 C − .05, where the last term rewards being alive: [...]."""
        return 0.005 * squared(control) + 0.0005 * contact_cost(after, 1.0) - 0.05


@dataclass(frozen=True)
class AntDir(Ant):
    """Run forwards (+1) or backwards (−1): r = g v − .005 ‖a‖² − .0005 C + .05."""

    @property
    def tasks(self) -> TaskDistribution:
        """The sign of the velocity to reach."""
        return TaskDistribution(direction=Choice((-1.0, 1.0)))

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """Velocity in the direction, less the costs."""
        velocity = self.velocity(before, after)
        return task["direction"] * velocity - self.finn_costs(control, after)


@dataclass(frozen=True)
class AntDir2D(Ant):
    """Run at an angle θ in the plane: r = d·v − .5 ‖a‖² − .0005 C + 1, with d = (cos θ, sin θ)."""

    source: ClassVar[str] = "ProMP, PEARL"

    @property
    def tasks(self) -> TaskDistribution:
        """The angle from the x axis."""
        return TaskDistribution(angle=Uniform(0.0, 2 * np.pi, unit="rad"))

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """Velocity along d, less the costs, and 1 for being alive."""
        xp = array_namespace(control)
        velocity = (after.qpos[..., :2] - before.qpos[..., :2]) / self.control_timestep
        along = xp.cos(task["angle"]) * velocity[..., 0] + xp.sin(task["angle"]) * velocity[..., 1]
        return along - 0.5 * squared(control) - 0.0005 * contact_cost(after, 1.0) + 1.0


@dataclass(frozen=True)
class AntVel(Ant):
    """Run at a given speed: r = 1 − |v − g| − .005 ‖a‖² − .0005 C + .05; g uniform over [0, 3]."""

    source: ClassVar[str] = "Finn 2017"

    @property
    def tasks(self) -> TaskDistribution:
        """The speed to reach; `beyond` extends its range by half."""
        return TaskDistribution(velocity=Uniform(0.0, 3.0, beyond=(0.0, 4.5), unit="m/s"))

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """1 less the distance of the velocity, less the costs."""
        distance = abs(self.velocity(before, after) - task["velocity"])
        return 1.0 - distance - self.finn_costs(control, after)


@dataclass(frozen=True)
class AntGoal(Ant):
    """Go to a place; L1 = |x − g_x| + |y − g_y|."""

    variant: Literal["finn", "promp"] = "promp"
    """`finn`: g uniform over [−3, 3]², r = 4 − L1 − .005 ‖a‖² − .0005 C + .05; episodes end as in
    the other ant families. `promp`, also used by PEARL and VariBAD: g uniform in the disc of radius
    3, r = −L1 − .1 ‖a‖² − .0005 C; episodes never end early."""

    @property
    def observation_space(self) -> spaces.Box:
        """Unbounded, 29 or 107 numbers: x and y come first, as the reward depends on them."""
        size = 2 + super().observation_space.shape[0]
        return spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def observe(self, state: Fields) -> Array:
        """x and y, and what the other ant families see."""
        xp = array_namespace(state.qpos)
        return xp.concat([state.qpos[..., :2], super().observe(state)], axis=-1)

    @property
    def tasks(self) -> TaskDistribution:
        """Coordinates of the goal; for `promp`, `beyond` extends the radius by a third."""
        if self.variant == "finn":
            return TaskDistribution(goal=Uniform(-3.0, 3.0, (2,), unit="m"))
        return TaskDistribution(goal=Ball(3.0, 2, beyond=4.0, unit="m"))

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """Minus the distance to the goal, less the costs."""
        xp = array_namespace(control)
        distance = xp.sum(xp.abs(after.qpos[..., :2] - task["goal"]), axis=-1)
        if self.variant == "finn":
            return 4.0 - distance - self.finn_costs(control, after)
        return -distance - 0.1 * squared(control) - 0.0005 * contact_cost(after, 1.0)

    def terminated(self, state: Fields, task: Mapping[str, Array]) -> Array | None:
        """As in the other ant families for `finn`, never for `promp`."""
        return super().terminated(state, task) if self.variant == "finn" else None
