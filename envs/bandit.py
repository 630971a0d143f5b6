"""Bandits: arms of unknown reward. An episode is one pull, so episodes per task are pulls.

Sources: Duan et al. 2016 (RL², arXiv 1611.02779), section 3.1, and Deleu's pytorch-maml-rl.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, device
from gymnasium import spaces

from metarl.tasks.declaration import Array, DynamicsFamily
from metarl.tasks.distributions import TaskDistribution, Uniform
from metarl.tasks.noise import Noise


def chosen(values: Array, index: Array) -> Array:
    """values[..., index]: [..., n] and integers [...] -> [...]."""
    xp = array_namespace(values)
    every = xp.arange(values.shape[-1], device=device(values))
    # A sum over a mask, because NumPy and torch have no common gather along an axis.
    return xp.sum(xp.where(every == index[..., None], values, 0.0 * values), axis=-1)


def standard_normal(uniform: Array) -> Array:
    """Normal numbers from pairs of uniform ones (Box, Muller 1958): [..., 2] -> [...]."""
    xp = array_namespace(uniform)
    radius = xp.sqrt(-2.0 * xp.log1p(-uniform[..., 0]))
    return radius * xp.cos(2 * np.pi * uniform[..., 1])


@dataclass(frozen=True)
class Bandit(DynamicsFamily):
    """What the bandits share: the state is the last reward."""

    source: ClassVar[str] = "Duan 2016, Deleu"
    # A softmax over five arms that starts near uniform needs an inner step size of 10 to 20. With
    # naive, which sees nothing of how the policy explores, training commits to one arm.
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "maml": {
            "meta_batch_size": 40,
            "episodes": 10,
            "inner_lr": 10.0,
            "gae_lambda": 1.0,
            "hidden_sizes": (32, 32),
            "activation": "relu",
        },
        "maml-trpo": {"estimator": "lvc", "step_sizes": "per_layer"},
        "promp": {"step_sizes": "per_layer"},
        "e-maml": {"step_sizes": "per_layer"},
    }

    arms: int = 5
    """k: 5, 10 or 50 in the literature."""

    @property
    def observation_space(self) -> spaces.Box:
        """A constant 0, because there is nothing to observe."""
        return spaces.Box(0.0, 0.0, (1,), np.float64)

    @property
    def action_space(self) -> spaces.Discrete:
        """The arm."""
        return spaces.Discrete(self.arms)

    def initial(self, noise: Noise) -> Array:
        """No reward yet."""
        return noise.zeros(1)

    def observe(self, state: Array) -> Array:
        """A 0."""
        return 0.0 * state

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """The reward that the transition drew."""
        return after[..., 0]

    def terminated(self, state: Array, task: Mapping[str, Array]) -> Array:
        """True: every pull ends an episode."""
        xp = array_namespace(state)
        return xp.ones_like(state[..., 0], dtype=xp.bool)


@dataclass(frozen=True)
class BernoulliBandit(Bandit):
    """An arm pays 1 with probability p, else 0."""

    noise_size: ClassVar[int] = 1

    @property
    def tasks(self) -> TaskDistribution:
        """p of each arm."""
        return TaskDistribution(probability=Uniform(0.0, 1.0, (self.arms,)))

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """1 with the probability of the arm, else 0."""
        xp = array_namespace(noise)
        return xp.astype(noise < chosen(task["probability"], action)[..., None], noise.dtype)


@dataclass(frozen=True)
class GaussianBandit(Bandit):
    """An arm pays N(μ, σ²), with one σ for all."""

    noise_size: ClassVar[int] = 2

    std: float = 1.0
    """σ."""

    @property
    def tasks(self) -> TaskDistribution:
        """μ of each arm."""
        return TaskDistribution(mean=Uniform(0.0, 1.0, (self.arms,)))

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """The arm's mean with noise."""
        reward = chosen(task["mean"], action) + self.std * standard_normal(noise)
        return reward[..., None]
