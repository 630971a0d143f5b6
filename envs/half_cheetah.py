"""HalfCheetah families: a planar cheetah that runs in a given direction or at a given speed.

Sources: Finn, Abbeel, Levine 2017 (arXiv 1703.03400), section 5.3; Rothfuss et al. 2018 (ProMP,
arXiv 1810.06784). The physics are Gymnasium's HalfCheetah-v5, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.tasks.declaration import Array, Fields
from metarl.tasks.distributions import Choice, TaskDistribution, Uniform

from .locomotion import WIDE_TRUST_REGION, Locomotion, squared

TORSO_HEIGHT = 0.7  # m; of the torso's frame at qpos = 0, in the model
CONTROL_COST = 0.05  # per unit of control, squared


@dataclass(frozen=True)
class HalfCheetah(Locomotion):
    """What the cheetah families share."""

    xml: ClassVar[str] = "half_cheetah.xml"
    contacts: ClassVar[int] = 12
    constraints: ClassVar[int] = 48
    control_timestep: ClassVar[float] = 0.05  # s
    reset_noise: ClassVar[float] = 0.1
    normal_velocities: ClassVar[bool] = True
    source: ClassVar[str] = "Finn 2017, ProMP"
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "maml": WIDE_TRUST_REGION,
        "rl2": {"action_scale": 1.0},
    }

    observation: Literal["promp", "finn"] = "promp"
    """`promp`: joint positions without x, and velocities (17). `finn`: also the torso's
    position (20), as in Finn, Deleu, garage and learn2learn."""

    @property
    def observation_space(self) -> spaces.Box:
        """Unbounded, 17 or 20 numbers."""
        return spaces.Box(-np.inf, np.inf, (20 if self.observation == "finn" else 17,), np.float64)

    def observe(self, state: Fields) -> Array:
        """Positions and velocities of the joints, without the task."""
        xp = array_namespace(state.qpos)
        parts = [state.qpos[..., 1:], state.qvel]
        if self.observation == "finn":
            x, z = state.qpos[..., :1], state.qpos[..., 1:2] + TORSO_HEIGHT
            parts += [x, xp.zeros_like(x), z]
        return xp.concat(parts, axis=-1)

    def control_cost(self, control: Array) -> Array:
        """.05 ‖a‖² of the actuators' controls: [...]."""
        return CONTROL_COST * squared(control)


@dataclass(frozen=True)
class HalfCheetahDir(HalfCheetah):
    """Run forwards (+1) or backwards (−1): r = g v − .05 ‖a‖². Each split has both tasks."""

    @property
    def tasks(self) -> TaskDistribution:
        """The sign of the velocity to reach."""
        return TaskDistribution(direction=Choice((-1.0, 1.0)))

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """g v − .05 ‖a‖²."""
        return task["direction"] * self.velocity(before, after) - self.control_cost(control)


@dataclass(frozen=True)
class HalfCheetahVel(HalfCheetah):
    """Run at a given speed: r = −|v − g| − .05 ‖a‖²; g uniform over [0, maximum_velocity] m/s."""

    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **HalfCheetah.tuned,
        "maml": {**WIDE_TRUST_REGION, "gae_lambda": 1.0},
    }

    maximum_velocity: float = 2.0
    """m/s: 2 in Finn, Deleu and garage, 3 in ProMP, PEARL and VariBAD."""

    @property
    def tasks(self) -> TaskDistribution:
        """The speed to reach; `beyond` extends its range by half."""
        high = self.maximum_velocity
        return TaskDistribution(velocity=Uniform(0.0, high, beyond=(0.0, 1.5 * high), unit="m/s"))

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """−|v − g| − .05 ‖a‖²."""
        distance = abs(self.velocity(before, after) - task["velocity"])
        return -distance - self.control_cost(control)
