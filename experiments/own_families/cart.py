"""A cart of unknown mass that goes to a place it does not see: dynamics as array operations."""

from collections.abc import Mapping
from dataclasses import dataclass

import gymnasium
import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.tasks.declaration import Array, DynamicsFamily
from metarl.tasks.distributions import LogUniform, TaskDistribution, Uniform
from metarl.tasks.noise import Noise

TIMESTEP = 0.1  # s


@dataclass(frozen=True)
class Cart(DynamicsFamily):
    """States are [..., 2]: place and velocity."""

    @property
    def tasks(self) -> TaskDistribution:
        """The mass, and the place to go to."""
        return TaskDistribution(
            mass=LogUniform(0.5, 2.0, unit="kg"), place=Uniform(-1.0, 1.0, unit="m")
        )

    @property
    def observation_space(self) -> spaces.Box:
        """Place and velocity."""
        return spaces.Box(-np.inf, np.inf, (2,), np.float64)

    @property
    def action_space(self) -> spaces.Box:
        """A force, in N."""
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, noise: Noise) -> Array:
        """At rest in the middle."""
        return noise.zeros(2)

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """Semi-implicit Euler steps."""
        xp = array_namespace(state)
        force = xp.clip(action[..., 0], -1.0, 1.0)
        velocity = state[..., 1] + TIMESTEP * force / task["mass"]
        return xp.stack([state[..., 0] + TIMESTEP * velocity, velocity], axis=-1)

    def observe(self, state: Array) -> Array:
        """The state."""
        return state

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """−|x − place|."""
        return -abs(after[..., 0] - task["place"])


gymnasium.register(
    "Cart-v0",
    entry_point="metarl.simulation.dynamics:DynamicsEnv",
    max_episode_steps=40,
    kwargs={"family": "cart:Cart"},
)
