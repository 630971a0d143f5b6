"""Running statistics by which observations and returns are normalised."""

import torch
from torch import Tensor, nn

SMALLEST_STD = 1e-4
"""A quantity that varies less is not scaled up further."""


class Statistics(nn.Module):
    """Mean and deviation of all rows seen so far, in float64; part of a checkpoint."""

    count: Tensor
    sums: Tensor  # [2, size], of the rows and of their squares

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(2, size, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Counts rows [n, size] in."""
        rows = rows.to(self.sums)
        self.count += len(rows)
        self.sums += torch.stack([rows.sum(0), rows.square().sum(0)])

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation: [size]; 0 and 1 as long as nothing was seen."""
        mean, square = self.sums / self.count.clamp(min=1)
        std = (square - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_STD)
        return mean, torch.where(self.count > 0, std, 1.0)


class ObservationNormaliser:
    """(observation − mean) / deviation of all observations of earlier iterations.

    The moments are those of the last `add`, so that all policies of an iteration see the same. They
    change no shape and clip nothing: an exported policy has them in its first layer.
    """

    def __init__(self, size: int):
        self._statistics = Statistics(size)
        self._moments: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, observations: Tensor) -> Tensor:
        """Normalised observations [..., size], of the same type."""
        mean, std = self.moments(observations.device)
        return (observations - mean.to(observations)) / std.to(observations)

    def moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation, float32: [size]."""
        if device not in self._moments:
            mean, std = self._statistics.moments
            self._moments[device] = mean.float().to(device), std.float().to(device)
        return self._moments[device]

    def add(self, rows: Tensor) -> None:
        """Includes observations [n, size] in the moments."""
        self._statistics.add(rows.to(self._statistics.sums.device))
        self._moments = {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds; a copy, as `add` changes it in place."""
        return {name: value.clone() for name, value in self._statistics.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continues from `state()`."""
        self._statistics.load_state_dict(state)
        self._moments = {}
