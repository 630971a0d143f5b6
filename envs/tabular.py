"""Tabular families: random Markov decision processes, and a grid with a hidden goal.

Sources: Duan et al. 2016 (RL², arXiv 1611.02779), section 3.2, and Deleu's pytorch-maml-rl;
Zintgraf et al. 2020 (VariBAD, arXiv 1910.08348), section 5.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, device
from gymnasium import spaces

from metarl.tasks.declaration import Array, DynamicsFamily
from metarl.tasks.distributions import Choice, Dirichlet, Normal, TaskDistribution
from metarl.tasks.noise import Noise

from .bandit import chosen, standard_normal


@dataclass(frozen=True)
class TabularMDP(DynamicsFamily):
    """P(·|s, a) ~ Dirichlet(1, ...), mean reward of (s, a) ~ N(1, 1), rewards N(mean, 1).

    The state consists of the number of the MDP's state, 0 at reset, and of the last reward.
    """

    noise_size: ClassVar[int] = 3
    source: ClassVar[str] = "Duan 2016, Deleu"
    # experiments/benchmarks/results/learning.txt
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "maml": {"inner_lr": 3.0, "gae_lambda": 0.7},
        "maml-trpo": {"inner_steps": 3, "step_sizes": "per_layer"},
        "promp": {"inner_steps": 3, "step_sizes": "per_layer"},
        "e-maml": {"inner_steps": 3, "step_sizes": "per_layer"},
    }

    states: int = 10
    """States of the MDP."""
    actions: int = 5
    """Actions of the MDP."""

    @property
    def tasks(self) -> TaskDistribution:
        """Transition probabilities [state, action, next] and mean rewards [state, action]."""
        pairs = (self.states, self.actions)
        return TaskDistribution(
            transitions=Dirichlet(1.0, (*pairs, self.states)), mean=Normal(1.0, 1.0, pairs)
        )

    @property
    def observation_space(self) -> spaces.Box:
        """The state, one-hot."""
        return spaces.Box(0.0, 1.0, (self.states,), np.float64)

    @property
    def action_space(self) -> spaces.Discrete:
        """The actions."""
        return spaces.Discrete(self.actions)

    def initial(self, noise: Noise) -> Array:
        """State 0."""
        return noise.zeros(2)

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """Draws the next state by inverse transform sampling, and the reward of the pair."""
        xp = array_namespace(noise)
        means, probabilities = task["mean"], task["transitions"]
        pair = xp.astype(state[..., 0], xp.int64) * self.actions + action
        batch, pairs = means.shape[:-2], self.states * self.actions
        flat = xp.reshape(probabilities, (*batch, pairs, self.states))
        row = xp.stack([chosen(flat[..., i], pair) for i in range(self.states)], axis=-1)
        below = xp.cumulative_sum(row, axis=-1)[..., :-1] <= noise[..., :1]
        after = xp.sum(xp.astype(below, noise.dtype), axis=-1)
        mean = chosen(xp.reshape(means, (*batch, pairs)), pair)
        return xp.stack([after, mean + standard_normal(noise[..., 1:])], axis=-1)

    def observe(self, state: Array) -> Array:
        """One-hot: [..., states]."""
        xp = array_namespace(state)
        every = xp.arange(self.states, device=device(state))
        return xp.astype(state[..., :1] == every, xp.float64)

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """The reward that the transition drew."""
        return after[..., 1]


SIDE = 5
GOALS = tuple((x, y) for x in range(SIDE) for y in range(SIDE) if x > 1 or y > 1)


@dataclass(frozen=True)
class GridNavigation(DynamicsFamily):
    """Move from a corner of 5 × 5 cells to a goal beyond the 2 × 2 there: r = 1, else −.1."""

    source: ClassVar[str] = "VariBAD"

    @property
    def tasks(self) -> TaskDistribution:
        """The goal's cell."""
        return TaskDistribution(goal=Choice(GOALS))

    @property
    def observation_space(self) -> spaces.Box:
        """The cell."""
        return spaces.Box(0.0, SIDE - 1.0, (2,), np.float64)

    @property
    def action_space(self) -> spaces.Discrete:
        """Stay, up, right, down, left."""
        return spaces.Discrete(5)

    def initial(self, noise: Noise) -> Array:
        """The corner."""
        return noise.zeros(2)

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """Moves to the neighbouring cell if there is one."""
        xp = array_namespace(state)
        # Not a table of moves: on a GPU no number may come from the host within a step.
        right = xp.astype(action == 2, state.dtype) - xp.astype(action == 4, state.dtype)
        up = xp.astype(action == 1, state.dtype) - xp.astype(action == 3, state.dtype)
        return xp.clip(state + xp.stack([right, up], axis=-1), 0.0, SIDE - 1.0)

    def observe(self, state: Array) -> Array:
        """The cell: [..., 2]."""
        return state

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """1 at the goal, −.1 elsewhere."""
        xp = array_namespace(after)
        there = xp.all(after == task["goal"], axis=-1)
        return 1.1 * xp.astype(there, after.dtype) - 0.1
