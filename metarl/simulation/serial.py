"""Any Gymnasium environment with a task, several of them in this process."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metarl.tasks.family import task_environment
from metarl.tasks.task import Tasks, select_tasks, stack_tasks, validate_tasks


class SerialVectorEnv(gymnasium.vector.VectorEnv):
    """Environments stepped one after the other; ended episodes rest until they are reset.

    Gymnasium's SyncVectorEnv either resets an ended environment itself, which costs a step that
    nobody asked for, or must not be stepped at all until every ended one is reset.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

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
        self.task_space = self._task_envs[0].task_space
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        shape = self.single_observation_space.shape or ()
        self._observations = np.zeros((num_envs, *shape), self.single_observation_space.dtype)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._success = np.full(num_envs, np.nan)
        self._current = np.zeros(1, np.int64) if current is None else current

    @property
    def task(self) -> Tasks:
        """The tasks of the environments: arrays [num_envs, ...]."""
        return stack_tasks([env.task for env in self._task_envs])

    @task.setter
    def task(self, tasks: Mapping[str, Any]) -> None:
        checked = validate_tasks(self.task_space, tasks, self.num_envs)
        for i, env in enumerate(self._task_envs):
            env.task = select_tasks(checked, i)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes in all environments, or in those of `options["reset_mask"]`."""
        mask = (options or {}).get("reset_mask")
        ids = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        for i in ids.tolist():
            self._current[0] = i
            self._observations[i], _ = self.envs[i].reset(seed=seeds[i] if seeds else None)
            self._terminated[i] = self._truncated[i] = False
            self._success[i] = np.nan
        return self._observations.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps the environments whose episodes have not ended.

        Where environments report it, `info["success"]` [num_envs] is theirs of the last step.
        """
        rewards = np.zeros(self.num_envs)
        for i in np.flatnonzero(~(self._terminated | self._truncated)):
            self._current[0] = i
            *result, info = self.envs[i].step(actions[i])
            self._observations[i], rewards[i], self._terminated[i], self._truncated[i] = result
            self._success[i] = success_of(info)
        return (
            self._observations.copy(),
            rewards,
            self._terminated.copy(),
            self._truncated.copy(),
            success_info(self._success),
        )

    def close_extras(self, **_kwargs: Any) -> None:
        """Closes the environments."""
        for env in self.envs:
            env.close()


def success_of(info: Mapping[str, Any]) -> float:
    """Whether a step of one environment was a success: its `success` or `is_success`; NaN, if it
    has neither as a number or truth value.
    """
    for name in ("success", "is_success"):
        value = np.asarray(info.get(name))
        if value.size == 1 and value.dtype.kind in "biuf":
            return float(value.item())
    return math.nan


def success_info(success: np.ndarray) -> dict[str, Any]:
    """`success` [num_envs] as a step's info; NaN, where nothing is told, is left out."""
    return {} if np.isnan(success).all() else {"success": np.nan_to_num(success)}
