"""Gymnasium environments as a simulation, which converts between NumPy and torch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from metarl.policies.action_units import native_actions
from metarl.simulation.protocol import Step
from metarl.simulation.serial import Environments
from metarl.support.errors import UsageError


class GymnasiumSimulation:
    """Environments that are stepped one by one or by worker processes, on the CPU."""

    device = torch.device("cpu")

    def __init__(self, environments: Environments):
        self.environments = environments
        self.num_envs = environments.num_envs
        self.observation_space = environments.observation_space
        self.action_space = environments.action_space
        self._closed = False

    def begin(self, tasks: Mapping[str, np.ndarray], streams: np.ndarray) -> Tensor:
        """Starts an episode in every environment and returns the observations: [num_envs, ...]."""
        self._expect_open()
        seeds = np.asarray(streams).tolist()
        return torch.from_numpy(self.environments.begin(tasks, seeds))

    def step(self, actions: Tensor) -> Step:
        """Steps the environments whose episodes have not ended."""
        self._expect_open()
        results = self.environments.step(native_actions(self.action_space, actions.numpy()))
        unreported = np.isnan(results.success).all()
        return Step(
            observations=torch.from_numpy(results.observations),
            rewards=torch.from_numpy(results.rewards),
            terminated=torch.from_numpy(results.terminated),
            truncated=torch.from_numpy(results.truncated),
            failed=torch.from_numpy(results.failed),
            # NaN, from an environment that reports nothing, counts as no success.
            success=None if unreported else torch.from_numpy(results.success > 0),
            info=torch.from_numpy(results.info) if results.info.size else None,
        )

    def close(self) -> None:
        """Closes the environments and ends worker processes."""
        if not self._closed:
            self._closed = True
            self.environments.close()

    def _expect_open(self) -> None:
        if self._closed:
            raise UsageError("the simulation is closed")
