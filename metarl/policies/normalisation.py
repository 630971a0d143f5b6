"""Running statistics that normalise observations and returns."""

import torch
from torch import Tensor, nn

SMALLEST_STD = 1e-4
"""Smallest standard deviation by which a quantity is divided."""


class Statistics(nn.Module):
    """Mean and standard deviation of all rows so far, in float64; part of a checkpoint."""

    count: Tensor
    sums: Tensor  # [2, size]: sums of the rows and of their squares

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(2, size, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Adds rows [n, size] to the statistics."""
        self.add_sums(*sums_of(rows))

    def add_sums(self, count: Tensor, sums: Tensor) -> None:
        """Adds rows of which these are the `sums_of`."""
        self.count += count.to(self.count)
        self.sums += sums.to(self.sums)

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation: [size]; 0 and 1 before the first row."""
        mean, square = self.sums / self.count.clamp(min=1)
        std = (square - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_STD)
        return mean, torch.where(self.count > 0, std, 1.0)


def sums_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Number of the rows [n, size], and their sums and those of their squares: [2, size]."""
    rows = rows.double()
    count = torch.full((), len(rows), dtype=torch.float64, device=rows.device)
    return count, torch.stack([rows.sum(0), rows.square().sum(0)])


class ObservationNormaliser:
    """(observation − mean) / standard deviation, over all observations of earlier iterations.

    The moments change only with `add_sums`, so that all policies of an iteration use the same ones.
    Nothing is clipped.
    """

    def __init__(self, size: int):
        self._statistics = Statistics(size)
        self._moments: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, observations: Tensor) -> Tensor:
        """Normalised observations [..., size] of the same dtype."""
        mean, std = self.moments(observations.device)
        return (observations - mean.to(observations)) / std.to(observations)

    def moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float32: [size]."""
        if device not in self._moments:
            mean, std = self._statistics.moments
            self._moments[device] = mean.float().to(device), std.float().to(device)
        return self._moments[device]

    def add_sums(self, count: Tensor, sums: Tensor) -> None:
        """Includes observations of which these are the `sums_of`."""
        self._statistics.add_sums(count, sums)
        self._moments = {}

    def state(self) -> dict[str, Tensor]:
        """A copy of the statistics for a checkpoint; a copy because `add_sums` works in place."""
        return {name: value.clone() for name, value in self._statistics.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues from `state()`."""
        self._statistics.load_state_dict(state)
        self._moments = {}
