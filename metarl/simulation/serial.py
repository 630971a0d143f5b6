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
    """What a step of Gymnasium environments gives, in NumPy."""

    observations: np.ndarray  # [n, ...]
    rewards: np.ndarray  # [n] float64; 0 where the episode had ended before
    terminated: np.ndarray  # [n] bool
    truncated: np.ndarray  # [n] bool
    failed: np.ndarray  # [n] bool: `info["unstable"]`
    success: np.ndarray  # [n] float64, of each episode's last step; NaN where nothing is said


class Environments(Protocol):
    """Several Gymnasium environments whose ended episodes rest until all begin anew.

    The arrays that they return may be overwritten by the next call.
    """

    num_envs: int
    observation_space: Space
    action_space: Space

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode in each, under its task; first observations: [n, ...]."""

    def step(self, actions: np.ndarray) -> Results:
        """Steps the environments whose episodes have not ended."""

    def close(self) -> None:
        """Closes the environments."""


class SerialEnvironments:
    """Environments stepped one after the other.

    Gymnasium's SyncVectorEnv either resets an ended environment itself, which costs a step that
    nobody asked for, or must not be stepped at all until every ended one is reset.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        current: np.ndarray | None = None,
    ):
        """`current` [1] is kept at the index of the environment whose code runs."""
        self.envs = [make() for _ in range(num_envs)]
        self._task_envs = [task_environment(env) for env in self.envs]
        self.num_envs = num_envs
        self.observation_space = self.envs[0].observation_space
        self.action_space = self.envs[0].action_space
        self._results = empty_results(self.observation_space, num_envs)
        self._current = np.zeros(1, np.int64) if current is None else current

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode in each, under its task; first observations: [n, ...]."""
        checked = validate_tasks(self._task_envs[0].task_space, tasks, self.num_envs)
        results = self._results
        for i, (env, task_env) in enumerate(zip(self.envs, self._task_envs, strict=True)):
            self._current[0] = i
            task_env.task = select_tasks(checked, i)
            results.observations[i], _ = env.reset(seed=seeds[i])
        results.terminated[:] = results.truncated[:] = results.failed[:] = False
        results.success[:] = np.nan
        return results.observations

    def step(self, actions: np.ndarray) -> Results:
        """Steps the environments whose episodes have not ended."""
        observations, rewards, terminated, truncated, failed, success = self._results
        rewards[:] = 0
        for i in np.flatnonzero(~(terminated | truncated)):
            self._current[0] = i
            *result, info = self.envs[i].step(actions[i])
            observations[i], rewards[i], terminated[i], truncated[i] = result
            failed[i] = info.get("unstable", False)
            success[i] = success_of(info)
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
    """A vector environment of somebody's own, which steps all environments at once."""

    def __init__(self, env: gymnasium.vector.VectorEnv, name: str):
        """Takes the vector environment of the family `name`.

        Raises:
            UsageError: it has no task, or resets ended episodes itself.

        """
        disabled = gymnasium.vector.AutoresetMode.DISABLED
        resets_itself = env.metadata.get("autoreset_mode") is not disabled
        if resets_itself or not hasattr(env, "task_space"):
            raise UsageError(
                f"{name}: its vector environment {type(env).__name__} needs task_space, task, and "
                "autoreset_mode DISABLED in its metadata; register the family without it otherwise"
            )
        self.env = cast(TaskVector, env)
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self._results = empty_results(self.observation_space, env.num_envs)

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode in each, under its task; first observations: [n, ...]."""
        self.env.task = validate_tasks(self.env.task_space, tasks, self.num_envs)
        results = self._results
        results.observations[:], _ = self.env.reset(seed=list(seeds))
        results.terminated[:] = results.truncated[:] = results.failed[:] = False
        results.success[:] = np.nan
        return results.observations

    def step(self, actions: np.ndarray) -> Results:
        """Steps all; what it gives for episodes that have ended is left out."""
        results = self._results
        going = ~(results.terminated | results.truncated)
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        results.observations[going] = observations[going]
        results.rewards[:] = np.where(going, rewards, 0.0)
        results.terminated[going] = terminated[going]
        results.truncated[going] = truncated[going]
        for known, key in ((results.failed, "unstable"), (results.success, "success")):
            if key in info:
                known[going] = np.asarray(info[key])[going]
        return results

    def close(self) -> None:
        """Closes the vector environment."""
        self.env.close()


def empty_results(observation_space: Space, number: int) -> Results:
    """Arrays for what `number` environments give."""
    return Results(
        observations=np.zeros((number, *(observation_space.shape or ())), observation_space.dtype),
        rewards=np.zeros(number),
        terminated=np.zeros(number, bool),
        truncated=np.zeros(number, bool),
        failed=np.zeros(number, bool),
        success=np.full(number, np.nan),
    )


def success_of(info: Mapping[str, object]) -> float:
    """Whether a step of one environment was a success: its `success` or `is_success`; NaN, if it
    has neither as a number or truth value.
    """
    for name in ("success", "is_success"):
        value = np.asarray(info.get(name))
        if value.size == 1 and value.dtype.kind in "biuf":
            return float(value.item())
    return math.nan
