"""Any Gymnasium environment with a task, in this process; and the choice of a backend."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metarl.errors import UsageError
from metarl.tasks import TaskFamily, Tasks, select_tasks, stack_tasks, validate_tasks


class SerialVectorEnv(gymnasium.vector.VectorEnv):
    """Environments stepped one after the other; ended episodes rest until they are reset.

    Gymnasium's SyncVectorEnv either resets an ended environment itself, which costs a step that
    nobody asked for, or must not be stepped at all until every ended one is reset.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

    def __init__(self, make: Callable[[], gymnasium.Env], num_envs: int):
        self.envs = [make() for _ in range(num_envs)]
        self._bases: list[Any] = [env.unwrapped for env in self.envs]
        self.num_envs = num_envs
        self.task_space = self._bases[0].task_space
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        shape = self.single_observation_space.shape or ()
        self._observations = np.zeros((num_envs, *shape), self.single_observation_space.dtype)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)

    @property
    def task(self) -> Tasks:
        """The tasks of the environments: arrays [num_envs, ...]."""
        return stack_tasks([base.task for base in self._bases])

    @task.setter
    def task(self, tasks: Mapping[str, Any]) -> None:
        checked = validate_tasks(self.task_space, tasks, self.num_envs)
        for i, base in enumerate(self._bases):
            base.task = select_tasks(checked, i)

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
            self._observations[i], _ = self.envs[i].reset(seed=seeds[i] if seeds else None)
            self._terminated[i] = self._truncated[i] = False
        return self._observations.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps the environments whose episodes have not ended."""
        rewards = np.zeros(self.num_envs)
        for i in np.flatnonzero(~(self._terminated | self._truncated)):
            result = self.envs[i].step(actions[i])
            self._observations[i], rewards[i], self._terminated[i], self._truncated[i], _ = result
        return (
            self._observations.copy(),
            rewards,
            self._terminated.copy(),
            self._truncated.copy(),
            {},
        )

    def close_extras(self, **_kwargs: Any) -> None:
        """Closes the environments."""
        for env in self.envs:
            env.close()


def make_simulations(
    family: TaskFamily, tasks: int, episodes: int, threads: int
) -> list[gymnasium.vector.VectorEnv]:
    """Environments for `episodes` episodes of each task: two halves if threads can step them.

    While one half waits for its actions, the other's physics run. They are two for any number of
    threads, so that the number changes no result.
    """
    sizes = [tasks - tasks // 2, tasks // 2] if tasks > 1 and _is_declared(family) else [tasks]
    share = max(1, threads // len(sizes))
    return [make_simulation(family, size * episodes, share) for size in sizes]


def make_simulation(
    family: TaskFamily, num_envs: int, threads: int = 0
) -> gymnasium.vector.VectorEnv:
    """A vector environment of the family, whose ended episodes are not stepped.

    Families with a vector environment of their own, as the declared ones, come from
    `gymnasium.make_vec` and step all environments at once; any other family runs in a
    `SerialVectorEnv`. `threads` are a declared family's simulator's; 0 takes every core.

    Raises:
        UsageError: the vector environment has no task, or resets ended episodes itself.

    """
    if family.spec.vector_entry_point is None:
        return SerialVectorEnv(family.make, num_envs)
    own: dict[str, Any] = {"threads": threads} if _is_declared(family) else {}
    env = gymnasium.make_vec(
        family.spec, num_envs, max_episode_steps=family.horizon, **own, **family.options
    )
    disabled = env.metadata.get("autoreset_mode") is AutoresetMode.DISABLED
    if not (disabled and hasattr(env, "task_space")):
        raise UsageError(
            f"{family.id}: its vector environment {type(env).__name__} needs task_space, task, and "
            "autoreset_mode DISABLED in its metadata; register the family without it otherwise"
        )
    return env


def backend_name(family: TaskFamily) -> str:
    """What steps the family's environments: MuJoCo's batch, arrays, its own vector, or a loop."""
    vector = family.spec.vector_entry_point
    if vector is None:
        return "loop"
    names = {"mujoco": "batch", "dynamics": "arrays"}
    return names[str(vector).split(":")[0].split(".")[-1]] if _is_declared(family) else "own"


def _is_declared(family: TaskFamily) -> bool:
    vector = family.spec.vector_entry_point
    return isinstance(vector, str) and vector.startswith("metarl.")
