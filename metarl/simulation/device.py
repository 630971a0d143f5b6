"""Simulations of declared families on a device, whose states never leave it."""

import functools
import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from metarl.simulation.declared import DeclaredSimulation
from metarl.simulation.dynamics import DynamicsPhysics
from metarl.simulation.physics import Physics, WarpOptions
from metarl.tasks.declaration import DeclaredFamily, DynamicsFamily, MujocoFamily

logger = logging.getLogger(__name__)


@runtime_checkable
class Limited(Protocol):
    """Physics that have room for so many contacts."""

    def expect_no_overflow(self, failed: Tensor) -> None:
        """Raises a UsageError if there were more since `begin` in worlds that have not failed."""


class DeviceSimulation(DeclaredSimulation):
    """Environments over physics in torch; `collect` draws their action noise there, by counter."""

    counts_noise = True

    def finish(self) -> None:
        """Checks the steps since `begin`, when no further one follows.

        Raises:
            UsageError: mujoco-warp had no room for all contacts or constraints.

        """
        if isinstance(self.physics, Limited):
            self.physics.expect_no_overflow(self._flags[2])


def make_device_simulation(
    family: DeclaredFamily,
    number: int,
    horizon: int,
    device: torch.device,
    info: Sequence[str],
    options: WarpOptions,
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
    return DeviceSimulation(family, physics, number, horizon, device, info)


@functools.cache
def _warn_of_cpu() -> None:
    logger.warning(
        "--simulation warp: there is no GPU here, so mujoco-warp steps on the CPU, where "
        "--simulation batch is many times faster"
    )
