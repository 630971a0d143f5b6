"""Any Gymnasium environment with a task, several of them in this process."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import gymnasium
import numpy as np

from metarl.simulation.results import (
    SUCCESS,
    number_of,
    observation_of,
    reset,
    reset_result,
    step,
    success_of,
)
from metarl.support.errors import FamilyError, UnfitError, UsageError
from metarl.support.foreign import LIMIT, START_LIMIT, Calling
from metarl.support.types import Space
from metarl.tasks.family import task_environment
from metarl.tasks.task import Tasks, select_tasks, task_name, validate_tasks


class Results(NamedTuple):
    """The results of a step of Gymnasium environments, in NumPy."""

    observations: np.ndarray  # [n, ...]
    rewards: np.ndarray  # [n] float64; 0 where the episode had ended before
    terminated: np.ndarray  # [n] bool
    truncated: np.ndarray  # [n] bool
    failed: np.ndarray  # [n] bool: `info["unstable"]`
    success: np.ndarray  # [n] float64, of each episode's last step; NaN if unreported
    info: np.ndarray  # [n, names] float64, of each episode's last step; NaN if unreported


class Environments(Protocol):
    """Several Gymnasium environments whose ended episodes rest until the next `begin`.

    The next call may overwrite the arrays that they return.
    """

    num_envs: int
    observation_space: Space
    action_space: Space

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode of each task and returns the first observations: [n, ...]."""

    def step(self, actions: np.ndarray) -> Results:
        """Steps the environments whose episodes have not ended."""

    def close(self) -> None:
        """Closes the environments."""


class SerialEnvironments:
    """Environments stepped one after the other.

    Gymnasium's SyncVectorEnv either resets ended environments itself, which costs an unwanted step,
    or must not be stepped until all of them are reset.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        current: np.ndarray | None = None,
        info: Sequence[str] = (),
        name: str = "the environment",
        timeout: float = LIMIT,
        first: int = 0,
    ):
        """Makes the environments.

        Args:
            make: makes one.
            num_envs: their number.
            current: [1], always holds the index of the environment whose code runs.
            info: names of the numbers in the environments' info that `Results.info` holds.
            name: of the family, for messages.
            timeout: seconds that a call of an environment may take.
            first: number of the first environment among those of all processes.

        Raises:
            FamilyError: an environment cannot be made.

        """
        self._place = Place(name, first)
        self._timeout = timeout
        self._current = np.zeros(1, np.int64) if current is None else current
        self.envs: list[gymnasium.Env] = []
        with self._calling("__init__", max(timeout, START_LIMIT)) as calling:
            for i in range(num_envs):
                self._current[0] = i
                calling.again()
                self.envs.append(make())
            self._task_envs = [task_environment(env) for env in self.envs]
            self.observation_space = self.envs[0].observation_space
            self.action_space = self.envs[0].action_space
        self.num_envs = num_envs
        self._info = tuple(info)
        self._results = empty_results(self.observation_space, num_envs, len(info))

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode of each task and returns the first observations: [n, ...]."""
        checked = validate_tasks(self._task_envs[0].task_space, tasks, self.num_envs)
        results = self._results
        self._place.begin(checked, seeds)
        with self._calling("reset") as calling:
            for i, (env, task_env) in enumerate(zip(self.envs, self._task_envs, strict=True)):
                self._current[0] = i
                calling.again()
                task_env.task = select_tasks(checked, i)
                observation, _ = reset(env, seed=seeds[i])
                results.observations[i] = observation_of(self.observation_space, observation)
        results.terminated[:] = results.truncated[:] = results.failed[:] = False
        results.success[:] = results.info[:] = np.nan
        return results.observations

    def step(self, actions: np.ndarray) -> Results:
        """Steps the environments whose episodes have not ended."""
        observations, rewards, terminated, truncated, failed, success, numbers = self._results
        rewards[:] = 0
        # Spaces sample numbers if they are Discrete, and otherwise arrays, also of shape ().
        rest = () if isinstance(self.action_space, gymnasium.spaces.Discrete) else (...,)
        with self._calling("step") as calling:
            for i in np.flatnonzero(~(terminated | truncated)):
                self._current[0] = i
                calling.again()
                observation, rewards[i], terminated[i], truncated[i], info = step(
                    self.envs[i], actions[(i, *rest)]
                )
                observations[i] = observation_of(self.observation_space, observation)
                failed[i] = bool(number_of(info.get("unstable", False)))
                success[i] = success_of(info)
                for j, name in enumerate(self._info):
                    value = number_of(info.get(name))
                    numbers[i, j] = math.nan if value is None else value
        self._place.step += 1
        return self._results

    def close(self) -> None:
        """Closes the environments, also those after one that fails to close.

        Raises:
            FamilyError: one failed, and no other error is on its way.

        """
        underway, failures = sys.exception(), []
        for i, env in enumerate(self.envs):
            self._current[0] = i
            try:
                with self._calling("close"):
                    env.close()
            except FamilyError as error:
                failures.append(error)
        if failures and underway is None:
            raise failures[0]

    def _calling(self, call: str, limit: float | None = None) -> Calling:
        """A block that calls the environments."""

        def where() -> str:
            i = int(self._current[0])
            return self._place.of(call, i, self.envs[i] if i < len(self.envs) else None)

        return Calling(where, self._timeout if limit is None else limit)


class Place:
    """Where in its episodes the code of a family is."""

    def __init__(self, name: str, first: int = 0):
        self._name = name
        self._first = first
        self._tasks: Tasks = {}
        self._seeds: Sequence[int] = ()
        self.step = 0

    def begin(self, tasks: Tasks, seeds: Sequence[int]) -> None:
        """Episodes of these tasks and seeds begin."""
        self._tasks, self._seeds, self.step = tasks, seeds, 0

    def of(self, call: str, index: int, env: gymnasium.Env | None = None) -> str:
        """The begin of a message about a call of an environment."""
        where = [f"environment {self._first + index}"]
        if index < len(self._seeds) and call in ("reset", "step"):
            where.append(f"task {task_name(select_tasks(self._tasks, index))}")
            where.append(f"seed {self._seeds[index]}")
        if call == "step":
            where.append(f"step {self.step}")
        if env is not None:
            where.append(defined_at(env, call))
        return f"{self._name}: {call} ({', '.join(filter(None, where))})"


def defined_at(env: gymnasium.Env, name: str) -> str:
    """FILE:LINE at which the innermost environment defines a method; nothing if it is unknown."""
    method = inspect.unwrap(getattr(type(env.unwrapped), name, None) or len)
    code = getattr(method, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


class TaskVector(Protocol):
    """A vector environment with a task for each of its environments."""

    task_space: gymnasium.spaces.Dict
    task: Tasks

    def reset(self, *, seed: list[int]) -> tuple[np.ndarray, dict[str, object]]:
        """The first observations and the info."""

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, object]]:
        """Observations, rewards, terminated, truncated and info."""

    def close(self) -> None:
        """Closes the environments."""


class VectorEnvironments:
    """A family's own vector environment, which steps all environments at once."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv,
        name: str,
        info: Sequence[str] = (),
        timeout: float = LIMIT,
    ):
        """Takes the vector environment of the family `name`.

        Args:
            env: the vector environment.
            name: of the family.
            info: names of the arrays in its info that `Results.info` holds.
            timeout: seconds that a call of it may take.

        Raises:
            UsageError: it has no task, or it resets ended episodes itself.

        """
        disabled = gymnasium.vector.AutoresetMode.DISABLED
        resets_itself = env.metadata.get("autoreset_mode") is not disabled
        is_box = isinstance(env.single_observation_space, gymnasium.spaces.Box)
        if resets_itself or not is_box or not hasattr(env, "task_space"):
            raise UsageError(
                f"{name}: its vector environment {type(env).__name__} needs task_space, task, a "
                "Box of observations, and autoreset_mode DISABLED in its metadata; otherwise "
                "register the family without it"
            )
        self.env = cast(TaskVector, env)
        self._place, self._timeout = Place(name), timeout
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self._info = tuple(info)
        self._results = empty_results(self.observation_space, env.num_envs, len(info))

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode of each task and returns the first observations: [n, ...]."""
        checked = validate_tasks(self.env.task_space, tasks, self.num_envs)
        results = self._results
        self._place.begin(checked, seeds)
        with self._calling("reset"):
            self.env.task = checked
            observations, _ = reset_result(self.env.reset(seed=list(seeds)))
            results.observations[:] = _batch(observations, results.observations, "observations")
        results.terminated[:] = results.truncated[:] = results.failed[:] = False
        results.success[:] = results.info[:] = np.nan
        return results.observations

    def step(self, actions: np.ndarray) -> Results:
        """Steps all environments and ignores what it returns for ended episodes."""
        results = self._results
        going = ~(results.terminated | results.truncated)
        with self._calling("step"):
            result = self.env.step(actions)
            if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
                raise UnfitError("returns no tuple of five, of which the last is a dict")
            for name, value in zip(Results._fields, result[:4], strict=False):
                held = getattr(results, name)
                held[going] = _batch(value, held, name)[going]
            results.rewards[~going] = 0.0
            told = next((name for name in SUCCESS if name in result[4]), SUCCESS[0])
            own = ((results.info[:, j], name) for j, name in enumerate(self._info))
            for known, key in ((results.failed, "unstable"), (results.success, told), *own):
                if key in result[4]:
                    known[going] = _batch(result[4][key], known, key)[going]
        self._place.step += 1
        return results

    def close(self) -> None:
        """Closes the vector environment."""
        with self._calling("close"):
            self.env.close()

    def _calling(self, call: str) -> Calling:
        return Calling(lambda: f"{self._place.of(call, 0)} of the vector", self._timeout)


def _batch(value: object, like: np.ndarray, name: str) -> np.ndarray:
    """An array of a vector environment, in the shape and type of another one."""
    array = np.asarray(value)
    kinds = "biu" if like.dtype.kind == "b" else "biuf"
    if array.shape != like.shape or array.dtype.kind not in kinds:
        raise UnfitError(
            f"returns {name} of shape {array.shape} and type {array.dtype}, not {like.shape} and "
            f"{like.dtype}"
        )
    return array.astype(like.dtype, copy=False)


def empty_results(observation_space: Space, number: int, names: int) -> Results:
    """Arrays for the results of `number` environments, with so many numbers of their info."""
    return Results(
        observations=np.zeros((number, *(observation_space.shape or ())), observation_space.dtype),
        rewards=np.zeros(number),
        terminated=np.zeros(number, bool),
        truncated=np.zeros(number, bool),
        failed=np.zeros(number, bool),
        success=np.full(number, np.nan),
        info=np.full((number, names), np.nan),
    )
