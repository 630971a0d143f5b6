"""Environments and parts of a run that give numbers that are infinite or NaN."""

import gymnasium
import numpy as np
import torch
from faulty_families import Line

from metarl.maml.estimators import naive
from metarl.sampling.baseline import fit_values

NUMBERS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "huge": 1e308}
BAD = 0.0
"""Tasks with a goal above this have the fault."""


class NotFinite(Line):
    """Gives such a number at step `at`, in tasks whose goal is positive."""

    def __init__(self, what="reward", number="nan", at=1, everywhere=False):
        super().__init__()
        self.what, self.number, self.at = what, NUMBERS.get(number, number), at
        self.everywhere = everywhere
        if what == "constant":
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def reset(self, **options):
        self.steps = 0
        x, info = super().reset(**options)
        return self.seen(x), info

    def step(self, action):
        assert np.isfinite(action).all(), "the environment got an action that is not finite"
        self.steps += 1
        x, reward, *rest = super().step(action)
        if self.what == "reward" and self.fails():
            reward = self.number
        return self.seen(x), reward, *rest

    def fails(self):
        return self.steps >= self.at and (self.everywhere or self.task["goal"] > BAD)

    def seen(self, x):
        if self.what == "constant":
            return np.full(1, 3.0)
        return np.full(1, self.number) if self.what == "observation" and self.fails() else x


gymnasium.register("NotFinite-v0", f"{__name__}:NotFinite", max_episode_steps=4)


def nan_values(rollout, discounted, discount):
    """A baseline that fails for the tasks whose observations end on one side."""
    values, final = fit_values(rollout, discounted, discount)
    return values * torch.nan, final


def nan_gradient(log_probs, batch):
    """An estimator whose gradient is NaN."""
    return naive(log_probs, batch) + 0 * batch.mean((log_probs - log_probs.detach()).sqrt())


def infinite(parameters, gradients, step_size):
    """An inner update after which parameters are infinite."""
    return {name: p / (0 * gradients[name]) for name, p in parameters.items()}


def without_derivative(parameters, gradients, step_size):
    """An inner update that is finite, and whose derivative is not."""
    return {
        name: p + step_size(name) * gradients[name] + (0 * p.square()).sqrt()
        for name, p in parameters.items()
    }
