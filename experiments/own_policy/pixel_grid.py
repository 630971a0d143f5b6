"""A task family with images: a grid whose agent is a pixel, and whose goal is not drawn.

    metarl train --family pixel_grid:PixelGrid-v0

A folder with this file is all that it needs. The policy has to find the goal by its reward, and
reads the agent's place from the image with `--policy cnn`, which `auto` takes for images, or with a
network of one's own: net.py. With `--family-options clock true` an observation is a dict of the
image and of the number of steps taken.
"""

from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

SIDE, STEPS = 7, 12
MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])


class PixelGrid(gymnasium.Env):
    """Start in the middle, move by one cell; the reward is minus the distance to the goal."""

    action_space = spaces.Discrete(len(MOVES))
    task_space: ClassVar = spaces.Dict(goal=spaces.MultiDiscrete([SIDE, SIDE]))

    def __init__(self, clock: bool = False):
        image = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        timed = spaces.Dict(image=image, taken=spaces.Discrete(STEPS + 1))
        self.observation_space = timed if clock else image
        self._clock, self._taken = clock, 0
        self.task = {"goal": np.zeros(2, np.int64)}
        self._place = np.zeros(2, np.int64)

    def reset(self, *, seed=None, options=None):
        """Puts the agent in the middle."""
        super().reset(seed=seed)
        self._place, self._taken = np.full(2, SIDE // 2), 0
        return self._observation(), {}

    def step(self, action):
        """Stays, or moves up, down, left or right."""
        self._place = np.clip(self._place + MOVES[action], 0, SIDE - 1)
        self._taken += 1
        distance = np.abs(self._place - self.task["goal"]).sum()
        return self._observation(), -distance / SIDE, False, False, {}

    def _observation(self):
        """The agent in red on a floor of gray, and the clock."""
        image = np.full((SIDE, SIDE, 3), 60, np.uint8)
        image[tuple(self._place)] = (255, 0, 0)
        return {"image": image, "taken": self._taken} if self._clock else image


gymnasium.register("PixelGrid-v0", entry_point="pixel_grid:PixelGrid", max_episode_steps=STEPS)
