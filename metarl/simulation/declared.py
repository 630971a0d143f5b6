"""From a declared family to a Gymnasium environment, single or vector."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metarl.support.errors import UsageError
from metarl.tasks.declaration import DeclaredFamily
from metarl.tasks.task import Task, Tasks, select_tasks, stack_tasks, validate_tasks

Ids = np.ndarray | None
"""Indices of the environments a call is for; None for all."""


class Physics(Protocol):
    """Steps the states of several environments."""

    @property
    def action_space(self) -> gymnasium.spaces.Space[Any]:
        """Space of one environment's actions."""

    def reset(self, ids: np.ndarray, generators: Sequence[np.random.Generator]) -> None:
        """New states for the environments `ids`, each drawn from its generator."""

    def configure(self, ids: np.ndarray, tasks: Tasks) -> None:
        """Tasks [len(ids), ...] take effect."""

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Actions [n, action] in the units that `step` takes and the reward function sees."""

    def step(self, ids: Ids, controls: np.ndarray) -> np.ndarray:
        """Advances the environments; whether each failed and kept its old state: [len(ids)]."""

    def state(self) -> Any:
        """A copy of all states, as the declared functions take them: arrays [n, ...]."""


class DeclaredVectorEnv(gymnasium.vector.VectorEnv):
    """A vector environment whose ended episodes rest until they are reset.

    An ended environment is not stepped: its observation stays, its reward is 0, its flags stay
    set. Reset all, or those of `options={"reset_mask": mask}`. A simulation that becomes unstable
    ends its episode by truncation in its last good state, and `info["unstable"]` says so.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

    def __init__(
        self,
        family: DeclaredFamily,
        physics: Physics,
        num_envs: int,
        max_episode_steps: int | None = None,
    ):
        self.family = family
        self.physics = physics
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self._distribution = family.tasks
        self.task_space = self._distribution.space
        self.single_observation_space = family.observation_space
        self.single_action_space = physics.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        first = self._distribution.sample(np.random.default_rng(0), "train")
        self.task = stack_tasks([first] * num_envs)
        self._tasks = self.task
        self.elapsed = np.zeros(num_envs, int)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)

    @property
    def task(self) -> Tasks:
        """The tasks that the next reset puts into effect: arrays [num_envs, ...]."""
        return {name: values.copy() for name, values in self._next_tasks.items()}

    @task.setter
    def task(self, tasks: Mapping[str, Any]) -> None:
        self._next_tasks = validate_tasks(self.task_space, tasks, self.num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes; `seed` is one integer (environment i gets seed + i) or one each."""
        mask = (options or {}).get("reset_mask")
        ids = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        for i in ids.tolist():
            if seeds is not None and seeds[i] is not None:
                self._generators[i], _ = seeding.np_random(seeds[i])
        self._tasks = {
            name: _written(values, ids, self._next_tasks[name])
            for name, values in self._tasks.items()
        }
        self.elapsed[ids] = 0
        self._terminated[ids] = self._truncated[ids] = False
        self.physics.configure(ids, select_tasks(self._tasks, ids))
        self.physics.reset(ids, [self._generators[i] for i in ids])
        self._state = self.physics.state()
        self._observations = call(self.family, "observe", self._state)
        return self._observations.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps the environments whose episodes have not ended."""
        active = ~(self._terminated | self._truncated)
        ids = None if active.all() else np.flatnonzero(active)
        controls = self.physics.control(np.asarray(actions))
        unstable = np.zeros(self.num_envs, bool)
        unstable[slice(None) if ids is None else ids] = self.physics.step(
            ids, controls if ids is None else controls[ids]
        )
        before, self._state = self._state, self.physics.state()
        # One reward and one observation per environment, also where nothing moved: cheaper than
        # gathering the active ones, and masked below.
        rewards = call(self.family, "reward", before, controls, self._state, self._tasks)
        self._expect_one_each("reward", rewards)
        rewards = np.where(active & ~unstable, rewards, 0.0)
        self._observations = call(self.family, "observe", self._state)
        terminated = call(self.family, "terminated", self._state, self._tasks)
        if terminated is not None:
            self._expect_one_each("terminated", terminated)
            self._terminated |= active & ~unstable & terminated
        self.elapsed += active
        late = self.max_episode_steps is not None and self.elapsed >= self.max_episode_steps
        self._truncated |= active & (unstable | late)
        return (
            self._observations.copy(),
            rewards,
            self._terminated.copy(),
            self._truncated.copy(),
            {"unstable": unstable},
        )

    def _expect_one_each(self, name: str, values: Any) -> None:
        if np.shape(values) != (self.num_envs,):
            raise UsageError(
                f"{type(self.family).__name__}: {name} gives shape {np.shape(values)} for "
                f"{self.num_envs} environments, not ({self.num_envs},)"
            )


class DeclaredEnv(gymnasium.Env):
    """One environment of a declared family: a vector environment of one, without the dimension."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, family: DeclaredFamily, physics: Physics, render_mode: str | None = None):
        self.family = family
        self.render_mode = render_mode
        self.physics = physics
        self._one = DeclaredVectorEnv(family, physics, 1)
        self.observation_space = self._one.single_observation_space
        self.action_space = self._one.single_action_space
        self._distribution = family.tasks
        self.task_space = self._distribution.space
        self.splits = self._distribution.splits

    @property
    def task(self) -> Task:
        """The task that the next reset puts into effect."""
        return select_tasks(self._one.task, 0)

    @task.setter
    def task(self, task: Mapping[str, Any]) -> None:
        checked = validate_tasks(self.task_space, task, None)
        self._one.task = stack_tasks([checked])

    @property
    def elapsed(self) -> int:
        """Steps since the last reset."""
        return int(self._one.elapsed[0])

    def sample_task(self, generator: np.random.Generator, split: str) -> Task:
        """One task of a split, from the declaration."""
        return self._distribution.sample(generator, split)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode of the task."""
        super().reset(seed=seed)
        observations, _ = self._one.reset(seed=None if seed is None else [seed])
        return observations[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes one step."""
        observations, rewards, terminated, truncated, info = self._one.step(
            np.asarray(action)[None]
        )
        unstable = bool(info["unstable"][0])
        return (
            observations[0],
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            {"unstable": unstable},
        )


def call(family: DeclaredFamily, function: str, *arguments: Any) -> Any:
    """What a function of the family gives; whatever error is its own is raised as it is.

    Raises:
        UsageError: it reads a field of the states, or of the model, that the family does not name.

    """
    try:
        return getattr(family, function)(*arguments)
    except AttributeError as error:
        fields = error.obj
        if not isinstance(fields, SimpleNamespace) or all(fields is not a for a in arguments):
            raise
        owner, kind = ("model", "model_fields") if function == "configure" else ("state", "fields")
        raise UsageError(
            f"{type(family).__name__}.{function} reads {owner}.{error.name}, which is not in its "
            f"{kind} ({', '.join(vars(fields))}): add it to `{kind}`"
        ) from error


def _written(values: np.ndarray, ids: np.ndarray, new: np.ndarray) -> np.ndarray:
    written = values.copy()
    written[ids] = new[ids]
    return written
