"""Declared families as simulations: their physics, and what all of them share around it."""

from collections.abc import Mapping

import numpy as np
import torch
from array_api_compat import array_namespace
from torch import Tensor

from metarl.simulation.physics import Physics, call, expect_shape
from metarl.simulation.protocol import Step
from metarl.support.errors import UsageError
from metarl.tasks.declaration import Array, DeclaredFamily
from metarl.tasks.task import validate_tasks


class DeclaredSimulation:
    """Environments of a declared family, over physics in NumPy or in torch.

    A simulation that becomes unstable ends its episode by truncation in its last good state, and
    `Step.failed` says so.
    """

    def __init__(
        self,
        family: DeclaredFamily,
        physics: Physics,
        num_envs: int,
        horizon: int | None = None,
        device: torch.device | None = None,
    ):
        """`horizon`: steps after which episodes are truncated.

        On a `device`, physics and declared functions get tensors there; without one they get NumPy
        arrays, and tensors on the CPU share their memory.
        """
        self.family, self.num_envs = family, num_envs
        self.observation_space, self.action_space = family.observation_space, physics.action_space
        self.device = torch.device("cpu") if device is None else device
        self._numpy = device is None
        self._physics: Physics | None = physics
        self._horizon = horizon
        self._task_space = family.tasks.space
        # As others see them, and as they are computed here: in the same memory.
        self._flags = [
            torch.zeros(num_envs, dtype=torch.bool, device=self.device) for _ in range(3)
        ]
        self._terminated, self._truncated, self._failed = map(self._array, self._flags)
        # An array, so that a captured step counts when it is replayed.
        self._elapsed = self._array(torch.zeros((), dtype=torch.int64, device=self.device))
        self._xp = array_namespace(self._elapsed)

    @property
    def physics(self) -> Physics:
        """What steps the states.

        Raises:
            UsageError: the simulation is closed.

        """
        if self._physics is None:
            raise UsageError(f"{type(self.family).__name__}: the simulation is closed")
        return self._physics

    def begin(self, tasks: Mapping[str, np.ndarray], streams: np.ndarray) -> Tensor:
        """Starts an episode in every environment; the first observations: [num_envs, ...]."""
        physics = self.physics
        checked = validate_tasks(self._task_space, tasks, self.num_envs)
        self._tasks = {name: self._placed(values) for name, values in checked.items()}
        for buffer in (self._terminated, self._truncated, self._failed, self._elapsed):
            buffer[...] = 0
        words = np.asarray(streams)
        # The same 64 bits: torch has no unsigned arithmetic.
        signed = words.view(np.int64) if words.dtype == np.uint64 else words.astype(np.int64)
        physics.begin(self._tasks, self._placed(signed))
        return self.tensor(call(self.family, "observe", physics.state()))

    def step(self, actions: Tensor) -> Step:
        """Steps the environments whose episodes have not ended."""
        physics, xp = self.physics, self._xp
        active = ~(self._terminated | self._truncated)
        before = physics.state()
        control, failed = physics.step(self._array(actions), active, self._elapsed)
        after = physics.state()
        moved = active
        if failed is not None:
            moved = active & ~failed
            self._failed |= active & failed
            self._truncated |= active & failed
        # One reward and one observation per environment, also where nothing moved: cheaper than
        # gathering the active ones, and masked here.
        rewards = self._one_each("reward", before, control, after, self._tasks)
        ended = self._one_each("terminated", after, self._tasks)
        if rewards is None:
            raise UsageError(f"{type(self.family).__name__}: reward gives None")
        if ended is not None:
            self._terminated |= moved & ended
        self._elapsed += 1
        if self._horizon is not None:
            self._truncated |= active & (self._elapsed >= self._horizon)
        terminated, truncated, unstable = self._flags
        return Step(
            observations=self.tensor(call(self.family, "observe", after)),
            rewards=self.tensor(xp.where(moved, xp.astype(rewards, xp.float64, copy=False), 0.0)),
            terminated=terminated,
            truncated=truncated,
            failed=unstable,
            success=None,
        )

    def close(self) -> None:
        """Frees the physics."""
        self._physics = None

    def _one_each(self, function: str, *arguments: object) -> Array | None:
        """What a function of the family gives, one number for each environment: [num_envs]."""
        values = call(self.family, function, *arguments)
        if values is not None:
            expect_shape(self.family, function, values, (self.num_envs,))
        return values

    def _placed(self, values: np.ndarray) -> Array:
        """An array of the host, where the physics are."""
        return values if self._numpy else torch.from_numpy(values).to(self.device)

    def _array(self, tensor: Tensor) -> Array:
        """A tensor as the physics take it; NumPy arrays share its memory."""
        return tensor.numpy() if self._numpy else tensor

    def tensor(self, values: Array) -> Tensor:
        """What the physics or the family gave; NumPy arrays share their memory."""
        return torch.from_numpy(np.ascontiguousarray(values)) if self._numpy else values
