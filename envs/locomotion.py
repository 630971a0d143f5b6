"""What the walking families share: noise at reset, velocities, and costs of control and contact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.tasks.declaration import Array, Fields, MujocoFamily
from metarl.tasks.noise import Noise

WIDE_TRUST_REGION: Mapping[str, Any] = {
    "normalise_observations": True,
    "hidden_sizes": (128, 128),
    "max_kl": 0.08,
}
"""Options of MAML with which runners learn most: outer_update.txt in
experiments/benchmarks/results. They are for all algorithms and controls, so that a comparison of
them is fair."""


@dataclass(frozen=True)
class Locomotion(MujocoFamily):
    """A body on the ground, whose first coordinate is the distance travelled."""

    observation_size: ClassVar[int]
    reset_noise: ClassVar[float]
    """Half-width of the noise in qpos and qvel at reset."""
    normal_velocities: ClassVar[bool] = False
    """Whether the noise in qvel is normal, with standard deviation `reset_noise`."""

    action_scale: float = 10.0

    @property
    def observation_space(self) -> spaces.Box:
        """Unbounded."""
        return spaces.Box(-np.inf, np.inf, (self.observation_size,), np.float64)

    def initial(self, noise: Noise, qpos: Array, qvel: Array) -> tuple[Array, Array]:
        """The model's own pose with noise, distributed as in Gymnasium's environment."""
        width = self.reset_noise
        qpos = qpos + noise.uniform(-width, width, qpos.shape[-1])
        if self.normal_velocities:
            return qpos, qvel + width * noise.normal(qvel.shape[-1])
        return qpos, qvel + noise.uniform(-width, width, qvel.shape[-1])

    def velocity(self, before: Fields, after: Fields) -> Array:
        """Δx / dt over the control step, m/s: [...]."""
        return (after.qpos[..., 0] - before.qpos[..., 0]) / self.control_timestep

    def info(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """`velocity`, m/s."""
        return {"velocity": self.velocity(before, after)}


def squared(x: Array) -> Array:
    """‖x‖² along the last axis: [..., n] -> [...]."""
    return array_namespace(x).sum(x**2, axis=-1)


def contact_cost(state: Fields, limit: float) -> Array:
    """Σ clip(cfrc_ext, ±limit)² over all bodies: [...]."""
    xp = array_namespace(state.cfrc_ext)
    return xp.sum(xp.clip(state.cfrc_ext, -limit, limit) ** 2, axis=(-2, -1))
