"""Simulations of declared families on a device, whose states never leave it."""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from metarl.simulation.declared import DeclaredSimulation
from metarl.simulation.dynamics import DynamicsPhysics
from metarl.simulation.physics import Physics, WarpOptions
from metarl.support.foreign import LIMIT
from metarl.tasks.declaration import DeclaredFamily, DynamicsFamily, MujocoFamily

logger = logging.getLogger(__name__)


@runtime_checkable
class CompiledPhysics(Protocol):
    """Physics that are compiled, and have room for so many contacts."""

    def prepare(self) -> None:
        """Compiles and captures a step, once, which may take minutes."""

    def expect_no_overflow(self, failed: Tensor) -> None:
        """Raises a UsageError if there were more since `begin` in worlds that have not failed."""


class DeviceSimulation(DeclaredSimulation):
    """Environments over physics in torch; `collect` draws their action noise there, by counter."""

    counts_noise = True

    def begin(self, tasks: Mapping[str, np.ndarray], streams: np.ndarray) -> Tensor:
        """As in a batch; compiling is not a part of what must return in time."""
        if isinstance(self.physics, CompiledPhysics):
            self.physics.prepare()
        return super().begin(tasks, streams)

    def finish(self) -> None:
        """Checks the steps since `begin`, when no further one follows.

        Raises:
            UsageError: mujoco-warp had no room for all contacts or constraints.

        """
        if isinstance(self.physics, CompiledPhysics):
            self.physics.expect_no_overflow(self._flags[2])


def make_device_simulation(
    family: DeclaredFamily,
    number: int,
    horizon: int,
    device: torch.device,
    info: Sequence[str],
    options: WarpOptions,
    timeout: float = LIMIT,
) -> DeviceSimulation:
    """Environments of a MuJoCo model on mujoco-warp, or of dynamics of their own in torch."""
    if isinstance(family, MujocoFamily):
        from metarl.simulation.warp import WarpPhysics

        if device.type == "cpu":
            _warn_of_cpu()
        physics: Physics = WarpPhysics(family, number, device, options)
    else:
        assert isinstance(family, DynamicsFamily)
        physics = DynamicsPhysics(family, number)
    return DeviceSimulation(family, physics, number, horizon, device, info, timeout)


@functools.cache
def _warn_of_cpu() -> None:
    logger.warning(
        "--simulation warp: there is no GPU here, so mujoco-warp steps on the CPU, where "
        "--simulation batch is many times faster"
    )
