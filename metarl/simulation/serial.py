"""Any Gymnasium environment with a task, several of them in this process."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import gymnasium
import numpy as np

from metarl.support.errors import UsageError
from metarl.support.types import Space
from metarl.tasks.family import task_environment
from metarl.tasks.task import Tasks, select_tasks, validate_tasks


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
    ):
        """Makes the environments.

        Args:
            make: makes one.
            num_envs: their number.
            current: [1], always holds the index of the environment whose code runs.
            info: names of the numbers in the environments' info that `Results.info` holds.

        """
        self.envs = [make() for _ in range(num_envs)]
        self._task_envs = [task_environment(env) for env in self.envs]
        self.num_envs = num_envs
        self.observation_space = self.envs[0].observation_space
        self.action_space = self.envs[0].action_space
        self._info = tuple(info)
        self._results = empty_results(self.observation_space, num_envs, len(info))
        self._current = np.zeros(1, np.int64) if current is None else current

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode of each task and returns the first observations: [n, ...]."""
        checked = validate_tasks(self._task_envs[0].task_space, tasks, self.num_envs)
        results = self._results
        for i, (env, task_env) in enumerate(zip(self.envs, self._task_envs, strict=True)):
            self._current[0] = i
            task_env.task = select_tasks(checked, i)
            results.observations[i], _ = env.reset(seed=seeds[i])
        results.terminated[:] = results.truncated[:] = results.failed[:] = False
        results.success[:] = results.info[:] = np.nan
        return results.observations

    def step(self, actions: np.ndarray) -> Results:
        """Steps the environments whose episodes have not ended."""
        observations, rewards, terminated, truncated, failed, success, numbers = self._results
        rewards[:] = 0
        # Spaces sample numbers if they are Discrete, and otherwise arrays, also of shape ().
        rest = () if isinstance(self.action_space, gymnasium.spaces.Discrete) else (...,)
        for i in np.flatnonzero(~(terminated | truncated)):
            self._current[0] = i
            *result, info = self.envs[i].step(actions[(i, *rest)])
            observations[i], rewards[i], terminated[i], truncated[i] = result
            failed[i] = info.get("unstable", False)
            success[i] = success_of(info)
            for j, name in enumerate(self._info):
                value = number_of(info.get(name))
                numbers[i, j] = math.nan if value is None else value
        return self._results

    def close(self) -> None:
        """Closes the environments."""
        for env in self.envs:
            env.close()


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

    def __init__(self, env: gymnasium.vector.VectorEnv, name: str, info: Sequence[str] = ()):
        """Takes the vector environment of the family `name`.

        Args:
            env: the vector environment.
            name: of the family.
            info: names of the arrays in its info that `Results.info` holds.

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
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self._info = tuple(info)
        self._results = empty_results(self.observation_space, env.num_envs, len(info))

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode of each task and returns the first observations: [n, ...]."""
        self.env.task = validate_tasks(self.env.task_space, tasks, self.num_envs)
        results = self._results
        results.observations[:], _ = self.env.reset(seed=list(seeds))
        results.terminated[:] = results.truncated[:] = results.failed[:] = False
        results.success[:] = results.info[:] = np.nan
        return results.observations

    def step(self, actions: np.ndarray) -> Results:
        """Steps all environments and ignores what it returns for ended episodes."""
        results = self._results
        going = ~(results.terminated | results.truncated)
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        results.observations[going] = observations[going]
        results.rewards[:] = np.where(going, rewards, 0.0)
        results.terminated[going] = terminated[going]
        results.truncated[going] = truncated[going]
        own = ((results.info[:, j], name) for j, name in enumerate(self._info))
        for known, key in ((results.failed, "unstable"), (results.success, "success"), *own):
            if key in info:
                known[going] = np.asarray(info[key])[going]
        return results

    def close(self) -> None:
        """Closes the vector environment."""
        self.env.close()


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


def success_of(info: Mapping[str, object]) -> float:
    """The `success` or `is_success` of an environment's info; NaN if neither is a number."""
    for name in ("success", "is_success"):
        value = number_of(info.get(name))
        if value is not None:
            return value
    return math.nan


def number_of(value: object) -> float | None:
    """The value if it is one number, also in an array; otherwise None."""
    array = np.asarray(value)
    return float(array.item()) if array.size == 1 and array.dtype.kind in "biuf" else None
