"""A plain Gymnasium environment with a task: a car on a hill of unknown steepness.

Run it from this folder:

    metarl check hill:Hill-v0
    metarl train --family hill:Hill-v0 --workers 2 --iterations 10 --meta-batch-size 4

`task_space` and `task` make it a family. It also has `sample_task`, because tasks are not drawn
uniformly from the space. The rest is an ordinary environment.
"""

import gymnasium
import numpy as np
from gymnasium import spaces


class Hill(gymnasium.Env):
    """Reach the top on one of the two sides: r = −.1 ‖a‖², and 10 at the top of the task's side."""

    def __init__(self):
        self.observation_space = spaces.Box(-2.0, 2.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.task_space = spaces.Dict(
            steepness=spaces.Box(0.0, 0.0025, (), np.float64),  # per step²
            side=spaces.Box(-1.0, 1.0, (), np.float64),
        )
        self.task = {"steepness": 0.001, "side": 1.0}

    def sample_task(self, generator, split):
        """Steep hills are held out for the test."""
        low, high = (0.0, 0.0015) if split == "train" else (0.0015, 0.0025)
        return {
            "steepness": generator.uniform(low, high),
            "side": generator.choice([-1.0, 1.0]),
        }

    def reset(self, *, seed=None, options=None):
        """Starts near the bottom of the valley, at rest."""
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-0.1, 0.1), 0.0])
        return self.state.astype(np.float32), {}

    def step(self, action):
        """Moves the car by its motor and by gravity."""
        position, velocity = self.state
        pull = self.task["steepness"] * np.sin(np.pi * position)
        velocity = np.clip(velocity + 0.003 * float(action[0]) - pull, -0.07, 0.07)
        position = np.clip(position + velocity, -1.0, 1.0)
        self.state = np.array([position, velocity])
        there = position * self.task["side"] >= 1.0
        reward = 10.0 * there - 0.1 * float(action[0]) ** 2
        return self.state.astype(np.float32), reward, bool(there), False, {}


gymnasium.register("Hill-v0", entry_point="hill:Hill", max_episode_steps=100)
