"""An existing Gymnasium environment as a task family, without a class of its own."""

import re
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.errors import UsageError
from metarl.tasks import Task, validate_tasks


class ParameterisedEnv(gymnasium.Env):
    """An existing Gymnasium environment whose task is the value of some of its attributes.

    `parameters` maps a task parameter to [attribute, low, high]; attributes are those of the
    unwrapped environment, with dots and indices: `"m"`, `"model.body_mass[1]"`. Values are
    written before each reset; after a write to a MuJoCo model its derived constants follow.

        gymnasium.register(
            "PendulumMass-v0",
            entry_point="metarl.parameterised:ParameterisedEnv",
            max_episode_steps=200,
            kwargs={"env_id": "Pendulum-v1", "parameters": {"mass": ["m", 0.5, 2.0]}},
        )
    """

    def __init__(self, env_id: str, parameters: Mapping[str, Any], **options: Any):
        """`env_id` is made with `options`; its own time limit gives way to the family's."""
        self._env = gymnasium.make(env_id, max_episode_steps=-1, **options)
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space
        self.metadata = self._env.metadata
        self.render_mode = self._env.render_mode
        self._attributes = {name: attribute for name, (attribute, _, _) in parameters.items()}
        for attribute in self._attributes.values():
            self._locate(attribute)
        self.task_space = spaces.Dict(
            {
                name: spaces.Box(low, high, (), np.float64)
                for name, (_, low, high) in parameters.items()
            }
        )
        middle = {name: (low + high) / 2 for name, (_, low, high) in parameters.items()}
        self.task = middle

    @property
    def task(self) -> Task:
        """The task that the next reset puts into effect."""
        return dict(self._task)

    @task.setter
    def task(self, task: Mapping[str, Any]) -> None:
        self._task = validate_tasks(self.task_space, task, None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Writes the task into the environment and resets it."""
        for name, attribute in self._attributes.items():
            owner, last, index = self._locate(attribute)
            value = float(self._task[name])
            if index is None:
                setattr(owner, last, value)
            else:
                getattr(owner, last)[index] = value
        if any(attribute.startswith("model.") for attribute in self._attributes.values()):
            import mujoco

            env: Any = self._env.unwrapped
            mujoco.mj_setConst(env.model, mujoco.MjData(env.model))
        return self._env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """Renders the environment."""
        return self._env.render()

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _locate(self, attribute: str) -> tuple[Any, str, tuple[int, ...] | None]:
        """The object that holds the attribute, its name there, and the index if it has one."""
        *path, last = attribute.split(".")
        match = re.fullmatch(r"(\w+)(?:\[([\d, ]+)\])?", last)
        owner: Any = self._env.unwrapped
        for name in path:
            owner = getattr(owner, name, None)
        if match is None or not hasattr(owner, match[1]):
            raise UsageError(f"{type(self._env.unwrapped).__name__} has no attribute {attribute}")
        index = tuple(int(i) for i in match[2].split(",")) if match[2] else None
        return owner, match[1], index
