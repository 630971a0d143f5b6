"""Labelled samples: the data of supervised few-shot tasks."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Labelled samples of several tasks."""

    inputs: Tensor  # [tasks, samples, ...]
    targets: Tensor  # [tasks, samples, ...]

    def __getitem__(self, tasks: slice) -> "Samples":
        """The samples of some tasks."""
        return Samples(self.inputs[tasks], self.targets[tasks])

    def to(self, device: torch.device) -> "Samples":
        """The samples on the device."""
        return Samples(self.inputs.to(device), self.targets.to(device))

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.inputs)

    @property
    def rows(self) -> int:
        """Number of samples of each task."""
        return self.inputs.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the samples."""
        return self.inputs.device
