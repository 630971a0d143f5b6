"""Episodes with which a family is checked: watched, and of tasks and actions that repeat."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from metarl.policies.observations import flat_environment
from metarl.simulation.results import observation_of, reset, step
from metarl.simulation.serial import defined_at
from metarl.support.foreign import START_LIMIT, Calling
from metarl.support.randomness import RandomKey
from metarl.tasks.family import TaskFamily, task_environment
from metarl.tasks.task import Task, Tasks

TASKS, LONGEST = 8, 200
"""The least number of tasks that are drawn, and the largest number of steps of an episode."""
MOST_NUMBERS = 20_000_000
"""Numbers of all tasks that are drawn at once."""

Moment = tuple[np.ndarray, float, bool, bool]
"""Observation, reward, terminated and truncated."""


class Watched(gymnasium.Wrapper):
    """An environment whose calls are watched, and the form of whose results is checked."""

    def __init__(self, env: gymnasium.Env, family: str):
        super().__init__(env)
        self._family = family

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets."""
        with self._calling("reset"):
            observation, info = reset(self.env, **options)
        return observation, dict(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps."""
        with self._calling("step"):
            *result, info = step(self.env, action)
        return (*result, dict(info))

    def _calling(self, call: str) -> Calling:
        place = defined_at(self.env, call)
        return Calling(lambda: f"{self._family}: {call}{f' ({place})' if place else ''}")


def made(family: TaskFamily) -> gymnasium.Env:
    """An environment."""
    with Calling(lambda: f"{family.id}: __init__", START_LIMIT):
        return Watched(family.make(), family.id)


def made_flat(family: TaskFamily) -> gymnasium.Env:
    """An environment with flat observations, in the type of their space as in training."""
    env = flat_environment(made(family))
    space = env.observation_space
    convert = functools.partial(observation_of, space)
    return gymnasium.wrappers.TransformObservation(env, convert, space)


def tasks_of(family: TaskFamily, number: int, split: str = "train") -> Tasks:
    """Tasks of a split, the same ones at every call."""
    return family.sample_tasks(number, RandomKey(0), split)


def affordable(family: TaskFamily, wanted: int) -> int:
    """So many tasks as wanted, or as fit into MOST_NUMBERS."""
    size = sum(math.prod(space.shape or ()) for space in family.task_space.values())
    return min(wanted, max(TASKS, MOST_NUMBERS // size))


def set_task(env: gymnasium.Env, task: Task) -> None:
    """Gives an environment a task."""
    with Calling(lambda: f"{env.spec.id if env.spec else env}: task"):
        task_environment(env).task = task


def actions_of(family: TaskFamily, seed: int, number: int) -> list[npt.ArrayLike]:
    """Random actions, the same ones for the same seed."""
    space = family.prototype.action_space
    space.seed(seed)
    return [space.sample() for _ in range(number)]


def episode_of(
    family: TaskFamily,
    env: gymnasium.Env,
    task: Task,
    seed: int,
    actions: list[npt.ArrayLike] | None = None,
) -> Iterator[Moment]:
    """Yields (observation, reward, terminated, truncated) after reset and after each action.

    Actions are random if they are not given.
    """
    number = min(family.horizon, LONGEST)
    set_task(env, task)
    observation, _ = env.reset(seed=seed)
    yield observation, 0.0, False, False
    for action in (actions or actions_of(family, seed, number))[:number]:
        observation, reward, terminated, truncated, _ = env.step(action)
        yield observation, float(reward), terminated, truncated
        if terminated or truncated:
            return


def equal(one: Moment, other: Moment) -> bool:
    """Whether observations are equal bit for bit, and rewards up to the order of a sum."""
    return (
        np.array_equal(one[0], other[0], equal_nan=True)
        and bool(np.isclose(one[1], other[1], rtol=1e-12, atol=0, equal_nan=True))
        and bool(one[2]) == bool(other[2])
        and bool(one[3]) == bool(other[3])
    )
