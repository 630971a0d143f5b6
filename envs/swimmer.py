"""Swimmer families: a chain in a viscous plane that swims at a given speed.

Source: Rothfuss et al. 2018 (ProMP, arXiv 1810.06784), whose code has the reward's sign reversed
and a cost of 1e-4 ‖a‖², which is left out here. The physics are Gymnasium's Swimmer-v5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from metarl.tasks.declaration import Array, Fields
from metarl.tasks.distributions import TaskDistribution, Uniform

from .locomotion import Locomotion


@dataclass(frozen=True)
class SwimmerVel(Locomotion):
    """Swim at a given speed: r = −|v − g|; the observation is that of Swimmer-v5 (8)."""

    xml: ClassVar[str] = "swimmer.xml"
    contacts: ClassVar[int] = 4
    constraints: ClassVar[int] = 16
    control_timestep: ClassVar[float] = 0.04  # s
    observation_size: ClassVar[int] = 8
    reset_noise: ClassVar[float] = 0.1
    source: ClassVar[str] = "ProMP"

    @property
    def tasks(self) -> TaskDistribution:
        """The speed to reach; `beyond` extends its range by half."""
        return TaskDistribution(velocity=Uniform(0.1, 0.2, beyond=(0.1, 0.3), unit="m/s"))

    def observe(self, state: Fields) -> Array:
        """Angles of the joints, and velocities."""
        xp = array_namespace(state.qpos)
        return xp.concat([state.qpos[..., 2:], state.qvel], axis=-1)

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """−|v − g|."""
        return -abs(self.velocity(before, after) - task["velocity"])
