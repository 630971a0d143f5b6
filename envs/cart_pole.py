"""CartPole families: a pole is balanced on a cart, both of unknown mass.

Source: RLlib's CartPoleMassEnv. The dynamics are Gymnasium's CartPole-v1 (Barto, Sutton, Anderson
1983), step for step, for all environments at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.tasks.declaration import Array, DynamicsFamily
from metarl.tasks.distributions import TaskDistribution, Uniform
from metarl.tasks.noise import Noise

GRAVITY, HALF_LENGTH, FORCE, TIMESTEP = 9.8, 0.5, 10.0, 0.02  # m/s², m, N, s
LARGEST_X, LARGEST_ANGLE = 2.4, 12 * 2 * np.pi / 360  # m, rad


@dataclass(frozen=True)
class CartPoleParams(DynamicsFamily):
    """Push left (0) or right (1); r = 1 for each step until the pole falls or the cart leaves."""

    source: ClassVar[str] = "RLlib"

    @property
    def tasks(self) -> TaskDistribution:
        """Masses of the cart and of the pole."""
        return TaskDistribution(
            cart_mass=Uniform(0.5, 2.0, unit="kg"), pole_mass=Uniform(0.05, 0.2, unit="kg")
        )

    @property
    def observation_space(self) -> spaces.Box:
        """x, its velocity, the pole's angle, and its velocity."""
        return spaces.Box(-np.inf, np.inf, (4,), np.float64)

    @property
    def action_space(self) -> spaces.Discrete:
        """Left or right."""
        return spaces.Discrete(2)

    def initial(self, noise: Noise) -> Array:
        """All four numbers are uniform over ±.05."""
        return noise.uniform(-0.05, 0.05, 4)

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """One Euler step of .02 s under a force of ±10 N."""
        xp = array_namespace(state)
        x, v, angle, spin = (state[..., i] for i in range(4))
        force = FORCE * (2.0 * action - 1.0)
        cos, sin = xp.cos(angle), xp.sin(angle)
        total = task["cart_mass"] + task["pole_mass"]
        moment = task["pole_mass"] * HALF_LENGTH
        push = (force + moment * spin**2 * sin) / total
        turn = (GRAVITY * sin - cos * push) / (
            HALF_LENGTH * (4.0 / 3.0 - task["pole_mass"] * cos**2 / total)
        )
        pull = push - moment * turn * cos / total
        return xp.stack(
            [
                x + TIMESTEP * v,
                v + TIMESTEP * pull,
                angle + TIMESTEP * spin,
                spin + TIMESTEP * turn,
            ],
            axis=-1,
        )

    def observe(self, state: Array) -> Array:
        """The state."""
        return state

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """1 for every step."""
        return array_namespace(after).ones_like(after[..., 0])

    def terminated(self, state: Array, task: Mapping[str, Array]) -> Array:
        """The cart has left ±2.4 m, or the pole ±12°."""
        return (abs(state[..., 0]) > LARGEST_X) | (abs(state[..., 2]) > LARGEST_ANGLE)
