"""Conversion of a policy's actions to those of an environment."""

from dataclasses import dataclass
from typing import Self

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.support.types import Space


@dataclass(frozen=True)
class ActionUnits:
    """a_env = clip(centre + factor · a, low, high), elementwise; None leaves actions unchanged.

    Policy actions from −scale to scale cover a bounded range, so that an initial σ of 1 explores
    with 1 / scale of half the range. A dimension without bounds has factor 1 and centre 0.
    """

    bounds: tuple[Tensor, Tensor] | None  # low and high, [action]
    factor: Tensor | None = None  # [action]
    centre: Tensor | None = None  # [action]

    @classmethod
    def of(cls, space: Space, scale: float) -> Self:
        """The units of an action space; a discrete one leaves actions unchanged."""
        if not isinstance(space, gymnasium.spaces.Box):
            return cls(None)
        bounds = torch.from_numpy(space.low), torch.from_numpy(space.high)
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        bounded = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore"):
            factor = np.where(bounded, (high - low) / 2 / scale, 1.0).astype(np.float32)
            centre = np.where(bounded, (high + low) / 2, 0.0).astype(np.float32)
        if (factor == 1).all() and not centre.any():
            return cls(bounds)  # spares the published families two operations per step
        return cls(bounds, torch.from_numpy(factor), torch.from_numpy(centre))

    def to(self, device: torch.device) -> "ActionUnits":
        """The units on a device."""
        bounds = self.bounds and (self.bounds[0].to(device), self.bounds[1].to(device))
        if self.factor is None or self.centre is None:
            return ActionUnits(bounds)
        return ActionUnits(bounds, self.factor.to(device), self.centre.to(device))

    def to_environment(self, actions: Tensor) -> Tensor:
        """Converts policy actions, [..., action] or discrete [...], to those of the environment."""
        if self.bounds is None:
            return actions
        if self.factor is not None and self.centre is not None:
            actions = self.centre + self.factor * actions
        return actions.clamp(*self.bounds)
