"""Simulations of declared families on a device, whose states never leave it."""

import functools
import logging
from collections.abc import Callable, Sequence

import torch

from metarl.simulation.declared import DeclaredSimulation
from metarl.simulation.dynamics import DynamicsPhysics
from metarl.simulation.physics import Physics, WarpOptions
from metarl.tasks.declaration import DeclaredFamily, DynamicsFamily, MujocoFamily

logger = logging.getLogger(__name__)


class DeviceSimulation(DeclaredSimulation):
    """Environments over physics in torch; `collect` draws their action noise there, by counter."""

    counts_noise = True

    def __init__(
        self,
        family: DeclaredFamily,
        physics: Physics,
        num_envs: int,
        horizon: int | None,
        device: torch.device,
        info: Sequence[str] = (),
        check: Callable[[], None] | None = None,
    ):
        """Environments at rest, until `begin`; `check` is what `finish` does."""
        super().__init__(family, physics, num_envs, horizon, device, info)
        self._check = check

    def finish(self) -> None:
        """Checks the steps since `begin`, when no further one follows.

        Raises:
            UsageError: the physics had no room for what they had to hold.

        """
        if self._check is not None:
            self._check()


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
        worlds = WarpPhysics(family, number, device, options)
        check = worlds.expect_no_overflow
        return DeviceSimulation(family, worlds, number, horizon, device, info, check)
    assert isinstance(family, DynamicsFamily)
    physics = DynamicsPhysics(family, number)
    return DeviceSimulation(family, physics, number, horizon, device, info)


@functools.cache
def _warn_of_cpu() -> None:
    logger.warning(
        "--simulation warp: there is no GPU here, so mujoco-warp steps on the CPU, where "
        "--simulation batch is many times faster"
    )
