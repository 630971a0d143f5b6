"""The interface of simulations: many environments of one family, stepped at once, in torch."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.support.types import Space


class Step(NamedTuple):
    """The results of a step of all environments.

    The tensors belong to the simulation, whose next call may overwrite them: copy those to keep.
    """

    observations: Tensor  # [num_envs, ...]; of an ended episode, its last one
    rewards: Tensor  # [num_envs] float64; 0 where the episode had ended before
    terminated: Tensor  # [num_envs] bool; stays set until the next `begin`
    truncated: Tensor  # [num_envs] bool; stays set until the next `begin`
    failed: Tensor  # [num_envs] bool: truncated because the physics diverged; stays set too
    success: Tensor | None  # [num_envs] bool, of the last step; None if none reports it
    info: Tensor | None = None  # [num_envs, names] float64, of those asked for; NaN if unreported


class Simulation(Protocol):
    """`num_envs` environments, each with a task and a stream of random numbers of its own.

    All episodes begin together. An episode that has ended rests until the next `begin`: it is not
    stepped, its observation stays, its rewards are 0, and its flags stay set.

    If `device` is not the CPU, `step` reads no value on the host and changes its tensors in place,
    so that it can be captured. A simulation may have two attributes more: `finish()`, called after
    the last step, raises a UsageError if the episodes are not valid; and where `counts_noise` is
    true, the noise of actions is drawn on the device, by counter.
    """

    @property
    def device(self) -> torch.device:
        """The device of the actions and of all returned tensors."""

    @property
    def num_envs(self) -> int:
        """Number of environments."""

    @property
    def observation_space(self) -> Space:
        """Space of one environment's observations: a Box."""

    @property
    def action_space(self) -> Space:
        """Space of one environment's actions."""

    def begin(self, tasks: Mapping[str, np.ndarray], streams: np.ndarray) -> Tensor:
        """Starts an episode in every environment and returns the observations: [num_envs, ...].

        Args:
            tasks: arrays [num_envs, ...] by parameter name.
            streams: [num_envs] int64 or uint64, one for each environment. An episode is a function
                of its task, its stream and its actions, and equals that of the family's Gymnasium
                environment after `reset(seed=stream)`.

        Raises:
            UsageError: a task is not in the task space, or the simulation is closed.

        """

    def step(self, actions: Tensor) -> Step:
        """Steps the environments whose episodes have not ended.

        Actions are flat, [num_envs, action] or [num_envs], or of the shape of the space.

        Raises:
            UsageError: the simulation is closed.

        """

    def close(self) -> None:
        """Frees memory and processes; a second call does nothing."""
