"""An existing Gymnasium environment as a task family, without a class of its own."""

import re
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from metarl.support.errors import UsageError
from metarl.tasks.distributions import (
    Choice,
    Distribution,
    TaskDistribution,
    Uniform,
    distribution_from_json,
)
from metarl.tasks.family import TaskFamily, find_spec, make_family
from metarl.tasks.task import Task, validate_tasks


class ParameterisedEnv(gymnasium.Env):
    """An existing Gymnasium environment whose task is the value of some of its attributes.

    `parameters` maps a task parameter to [attribute, low, high], or to [attribute, distribution],
    the distribution of a number as data (`metarl.tasks.distributions`); without parameters it is a
    family of one task. Attributes are those of the unwrapped environment, with dots and indices:
    `"m"`, `"model.body_mass[1]"`. Values are written before each reset; after a write to a MuJoCo
    model its derived constants follow.

        gymnasium.register(
            "PendulumParams-v0",
            entry_point="metarl.tasks.parameterised:ParameterisedEnv",
            max_episode_steps=200,
            kwargs={
                "env_id": "Pendulum-v1",
                "parameters": {
                    "mass": ["m", 0.5, 2.0],
                    "length": ["l", {"kind": "LogUniform", "low": 0.5, "high": 2.0, "unit": "m"}],
                },
            },
        )

    """

    def __init__(self, env_id: str, parameters: Mapping[str, Any], **options: Any):
        """`env_id` is made with `options`; its own time limit gives way to the family's."""
        self._env = gymnasium.make(env_id, max_episode_steps=-1, **options)
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space
        self.metadata = self._env.metadata
        self.render_mode = self._env.render_mode
        self._attributes = {name: attribute for name, (attribute, *_) in parameters.items()}
        for attribute in self._attributes.values():
            self._locate(attribute)
        distributions = {n: _distribution(n, *given) for n, (_, *given) in parameters.items()}
        # Without parameters there is one task, which changes nothing.
        self.tasks = TaskDistribution(**distributions or {"environment": Choice((0.0,))})
        self.task_space = self.tasks.space
        self.splits = self.tasks.splits
        self.task = self.sample_task(np.random.default_rng(0), "train")

    def sample_task(self, generator: np.random.Generator, split: str) -> Task:
        """One task of a split."""
        return self.tasks.sample(generator, split)

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


def single_task_family(env_id: str, horizon: int | None = None) -> TaskFamily:
    """A registered environment without a task as a family whose only task is the environment.

    Raises:
        UsageError: there is no such environment, or no horizon anywhere.

    """
    spec = find_spec(env_id)
    name = f"metarl/{spec.id}"
    if name not in gymnasium.registry:
        gymnasium.register(
            name,
            entry_point="metarl.tasks.parameterised:ParameterisedEnv",
            max_episode_steps=spec.max_episode_steps or horizon,
            kwargs={"env_id": env_id, "parameters": {}},
        )
    return make_family(name)


def _distribution(name: str, *given: Any) -> Distribution:
    """Of a number: from low and high, or from a distribution's data."""
    if len(given) == 1 and isinstance(given[0], Mapping):
        distribution = distribution_from_json(name, given[0])
    elif len(given) == 2:
        distribution = Uniform(*given)
    else:
        raise UsageError(f"task parameter {name}: needs low and high, or a distribution")
    if distribution.space.shape != ():
        raise UsageError(f"task parameter {name}: {distribution} is not of a number")
    return distribution
