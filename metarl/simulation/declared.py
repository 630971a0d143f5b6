"""Simulations of declared families: their physics, and the episodes that all of them share."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from array_api_compat import array_namespace
from torch import Tensor

from metarl.simulation.physics import Physics, call, expect_shape
from metarl.simulation.protocol import Step
from metarl.simulation.results import SUCCESS
from metarl.support.errors import UsageError
from metarl.support.foreign import LIMIT, Calling
from metarl.tasks.declaration import Array, DeclaredFamily
from metarl.tasks.task import validate_tasks


class DeclaredSimulation:
    """Environments of a declared family, over physics in NumPy or in torch.

    An environment whose physics become unstable is truncated in its last valid state, and
    `Step.failed` is set.
    """

    def __init__(
        self,
        family: DeclaredFamily,
        physics: Physics,
        num_envs: int,
        horizon: int | None = None,
        device: torch.device | None = None,
        info: Sequence[str] | None = (),
        timeout: float = LIMIT,
    ):
        """Environments at rest, until `begin`.

        Args:
            family: the declaration.
            physics: steps the states.
            num_envs: number of environments.
            horizon: steps after which episodes are truncated.
            device: where physics and declared functions receive tensors. Without one they receive
                NumPy arrays, which share memory with the tensors that callers see.
            info: names of the numbers of the family's `info` in `Step.info`; None computes them for
                `numbers` alone.
            timeout: seconds that a step may take.

        """
        self._timeout = timeout
        self.family, self.num_envs = family, num_envs
        self.observation_space, self.action_space = family.observation_space, physics.action_space
        self.device = torch.device("cpu") if device is None else device
        self._numpy = device is None
        self._physics: Physics | None = physics
        self._horizon = horizon
        self._task_space = family.tasks.space
        self._info = info
        self.numbers: Mapping[str, Array] = {}
        """What the family's `info` gave for the last step, if it was asked for: [num_envs] each."""
        # That of the first step tells whether there is a success among them.
        self._reads_info = True
        # Tensors for callers and arrays for the computations here share memory.
        self._flags = [
            torch.zeros(num_envs, dtype=torch.bool, device=self.device) for _ in range(3)
        ]
        self._terminated, self._truncated, self._failed = map(self._array, self._flags)
        # An array and not an int, so that a captured step counts whenever it is replayed.
        self._elapsed = self._array(torch.zeros((), dtype=torch.int64, device=self.device))
        self._xp = array_namespace(self._elapsed)

    @property
    def physics(self) -> Physics:
        """The physics that step the states.

        Raises:
            UsageError: the simulation is closed.

        """
        if self._physics is None:
            raise UsageError(f"{type(self.family).__name__}: the simulation is closed")
        return self._physics

    def begin(self, tasks: Mapping[str, np.ndarray], streams: np.ndarray) -> Tensor:
        """Starts an episode in every environment and returns the observations: [num_envs, ...]."""
        with self._calling("reset"):
            return self._begin(tasks, streams)

    def step(self, actions: Tensor) -> Step:
        """Steps the environments whose episodes have not ended."""
        with self._calling("step"):
            return self._step(actions)

    def _calling(self, call: str) -> Calling:
        """A block that calls the functions of the declaration; a step is that of all episodes."""
        return Calling(lambda: f"{type(self.family).__name__}: {call}", self._timeout)

    def _begin(self, tasks: Mapping[str, np.ndarray], streams: np.ndarray) -> Tensor:
        physics = self.physics
        checked = validate_tasks(self._task_space, tasks, self.num_envs)
        self._tasks = {name: self._placed(values) for name, values in checked.items()}
        for buffer in (self._terminated, self._truncated, self._failed, self._elapsed):
            buffer[...] = 0
        words = np.asarray(streams)
        # Keep the 64 bits: torch has no unsigned arithmetic.
        signed = words.view(np.int64) if words.dtype == np.uint64 else words.astype(np.int64)
        physics.begin(self._tasks, self._placed(signed))
        return self.tensor(call(self.family, "observe", physics.state()))

    def _step(self, actions: Tensor) -> Step:
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
        # Rewards and observations are computed for all environments and masked here, which is
        # cheaper than gathering the active ones.
        rewards = self._one_each("reward", before, control, after, self._tasks)
        ended = self._one_each("terminated", after, self._tasks)
        if rewards is None:
            raise UsageError(f"{type(self.family).__name__}: reward returned None, not an array")
        if ended is not None:
            self._terminated |= moved & ended
        if self._reads_info:
            self.numbers = call(self.family, "info", before, control, after, self._tasks)
            for values in self.numbers.values():
                expect_shape(self.family, "info", values, (self.num_envs,))
            asked = self._info is None or len(self._info) > 0
            self._reads_info = asked or any(name in self.numbers for name in SUCCESS)
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
            success=self._success(),
            info=self._asked() if self._info else None,
        )

    def close(self) -> None:
        """Frees the physics."""
        self._physics = None

    def _success(self) -> Tensor | None:
        """Whether the last step was a success: [num_envs] bool; None if `info` does not say."""
        told = next((self.numbers[name] for name in SUCCESS if name in self.numbers), None)
        return None if told is None else self.tensor(told) > 0

    def _asked(self) -> Tensor:
        """The numbers that `info` names: [num_envs, names]."""
        unknown = torch.full((self.num_envs,), torch.nan, device=self.device)
        own = {name: self.tensor(values) for name, values in self.numbers.items()}
        own["unstable"] = self._flags[2]
        return torch.stack([own.get(name, unknown).double() for name in self._info or ()], -1)

    def _one_each(self, function: str, *arguments: object) -> Array | None:
        """The result of a function that gives a number for each environment: [num_envs]."""
        values = call(self.family, function, *arguments)
        if values is not None:
            expect_shape(self.family, function, values, (self.num_envs,))
        return values

    def _placed(self, values: np.ndarray) -> Array:
        """An array of the host, moved to the device of the physics."""
        return values if self._numpy else torch.from_numpy(values).to(self.device)

    def _array(self, tensor: Tensor) -> Array:
        """A tensor as the physics accept it; a NumPy array shares its memory."""
        return tensor.numpy() if self._numpy else tensor

    def tensor(self, values: Array) -> Tensor:
        """A result of the physics or the family as a tensor, which shares memory with NumPy."""
        return torch.from_numpy(np.ascontiguousarray(values)) if self._numpy else values
