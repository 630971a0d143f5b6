"""Conversion of a policy's actions, numbers or vectors, to those of an environment."""

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
    with 1 / scale of half the range. A dimension without bounds has factor 1 and centre 0. Discrete
    actions count from 0, those of the environment from `start`.
    """

    bounds: tuple[Tensor, Tensor] | None  # low and high, [action]
    factor: Tensor | None = None  # [action]
    centre: Tensor | None = None  # [action]
    start: Tensor | None = None  # [] or [action] int64: of a discrete space

    @classmethod
    def of(cls, space: Space, scale: float) -> Self:
        """The units of an action space; its actions of any shape are vectors here."""
        if not isinstance(space, gymnasium.spaces.Box):
            start = np.ravel(getattr(space, "start", 0)).astype(np.int64)
            return cls(None, start=torch.from_numpy(start).squeeze() if start.any() else None)
        ends = np.ravel(space.low), np.ravel(space.high)
        bounds = torch.from_numpy(ends[0]), torch.from_numpy(ends[1])
        low, high = (end.astype(np.float64) for end in ends)
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
        others = (x if x is None else x.to(device) for x in (self.factor, self.centre, self.start))
        return ActionUnits(bounds, *others)

    def to_environment(self, actions: Tensor) -> Tensor:
        """Converts policy actions, [..., action] or discrete [...], to those of the environment."""
        if self.bounds is None:
            return actions if self.start is None else actions + self.start
        if self.factor is not None and self.centre is not None:
            actions = self.centre + self.factor * actions
        return actions.clamp(*self.bounds)


def native_actions(space: Space, actions: np.ndarray) -> np.ndarray:
    """Flat actions [n] or [n, action] in the shape and type of the space: [n, ...]."""
    shaped = actions.reshape(len(actions), *(space.shape or ()))
    if np.issubdtype(space.dtype, np.integer) and actions.dtype.kind == "f":
        shaped = np.rint(shaped)
    native: np.ndarray = shaped.astype(space.dtype, copy=False)
    return native
