"""Noise of actions by counter, drawn where the actions are computed."""

import math

import numpy as np
import torch
from torch import Tensor

from metarl.tasks.noise import Noise, Purpose


class CountedNoise:
    """Numbers as functions of (stream, step): the same bits on every device.

    It takes the place of NumPy's generator, for all tasks and episodes at once.
    """

    def __init__(self, streams: Tensor):
        """`streams` [tasks, episodes] int64, hashed here: one for each episode."""
        self._noise = Noise(streams, Purpose.ACTION)
        self._device = streams.device

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32]) -> Tensor:
        """Standard normal, float32: `size` is (time, tasks, episodes, ...)."""
        normal: Tensor = self._noise.normal_at(self._steps(size), math.prod(size[3:]))
        return normal.float().reshape(size)

    def gumbel(self, *, size: tuple[int, ...]) -> Tensor:
        """Standard Gumbel, float64: `size` is (time, tasks, episodes, ...)."""
        gumbel: Tensor = self._noise.gumbel_at(self._steps(size), math.prod(size[3:]))
        return gumbel.reshape(size)

    def _steps(self, size: tuple[int, ...]) -> Tensor:
        return torch.arange(size[0], device=self._device).reshape(-1, 1, 1)
