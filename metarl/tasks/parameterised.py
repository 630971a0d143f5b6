"""An existing Gymnasium environment as a task family, without a class of its own."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import numpy as np

from metarl.support.errors import UsageError
from metarl.support.types import Env, Json
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
    `"m"`, `"model.body_mass[1]"`. Values are written before each reset, in the attribute's own
    type: 2.0 is written as 2 where the attribute is an int.

    What the environment computed from an attribute when it was made must follow. The derived
    constants of a MuJoCo model and of Gymnasium's CartPole do; for others `derive` names a function
    as `"module:function"`, which is called with the unwrapped environment after the values are
    written. `metarl check` finds attributes that do not follow.

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

    def __init__(
        self, env_id: str, parameters: Mapping[str, Sequence[Any]], derive: str = "", **options: Any
    ):
        """`env_id` is made with `options`; its own time limit gives way to the family's.

        Raises:
            UsageError: an attribute or `derive` does not exist, or a distribution is malformed.

        """
        self._env = gymnasium.make(env_id, max_episode_steps=-1, **options)
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space
        self.metadata = self._env.metadata
        self.render_mode = self._env.render_mode
        attributes = {name: attribute for name, (attribute, *_) in parameters.items()}
        self._attributes = {
            name: Attribute.find(self._env.unwrapped, path) for name, path in attributes.items()
        }
        self._derive = _derivation(self._env.unwrapped, derive)
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
    def task(self, task: Mapping[str, object]) -> None:
        self._task = validate_tasks(self.task_space, task, None)

    def reset(self, *, seed: int | None = None, options: Json | None = None) -> tuple[Any, Json]:
        """Writes the task into the environment and resets it."""
        for name, attribute in self._attributes.items():
            attribute.write(self._env.unwrapped, float(self._task[name]))
        _refresh_models(self._env.unwrapped, self._attributes.values())
        self._derive(self._env.unwrapped)
        return self._env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Json]:
        """Steps the environment."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """Renders the environment."""
        return self._env.render()

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def stale_attributes(self) -> list[str]:
        """Names of attributes that `__init__` computes from the task's attributes and that keep
        their old values when a task is set.

        They are found by comparison with a second environment, in which the task's values replace
        the original ones while `__init__` runs; both are reset with the same seed. Only numbers
        that a method other than `__init__` uses are compared. Attributes of nested objects, such as
        a MuJoCo model, are not.
        """
        values = {
            attribute.name: attribute.typed(float(self._task[name]))
            for name, attribute in self._attributes.items()
            if not attribute.holders and attribute.index is None
        }
        made = _made_with(self._env.unwrapped, values) if values else None
        if made is None:
            return []
        self.reset(seed=0)
        made.reset(seed=0)
        differ = _different(self._env.unwrapped, made)
        self.action_space.seed(0)
        action = self.action_space.sample()
        self.step(action)
        made.step(action)
        # An attribute that is updated in the first step is right in time, and a state that differs
        # after it is only a consequence.
        differ &= _different(self._env.unwrapped, made)
        made.close()
        return sorted(differ & _names_read(type(self._env.unwrapped)) - values.keys())


@dataclass(frozen=True)
class Attribute:
    """A number somewhere in an environment."""

    path: str
    """As in `"m"` and `"model.body_mass[1]"`."""
    holders: tuple[str, ...]
    """Names on the way from the environment to the object that has the attribute."""
    name: str
    index: tuple[int, ...] | None
    """In the array that the attribute is; None where it is the number itself."""
    kind: type
    """Of the number that was there first."""

    @classmethod
    def find(cls, env: Env, path: str) -> Self:
        """The attribute of an environment at `path`.

        Raises:
            UsageError: there is none.

        """
        *holders, last = path.split(".")
        match = re.fullmatch(r"(\w+)(?:\[([\d, ]+)\])?", last)
        owner: object = env
        for name in holders:
            owner = getattr(owner, name, None)
        if match is None or not hasattr(owner, match[1]):
            raise UsageError(f"{type(env).__name__} has no attribute {path}")
        index = tuple(int(i) for i in match[2].split(",")) if match[2] else None
        value = getattr(owner, match[1])
        kind = type(value if index is None else value[index])
        return cls(path, tuple(holders), match[1], index, kind)

    @property
    def whole(self) -> bool:
        """Whether the number that was there first is a whole number or a truth value."""
        return issubclass(self.kind, (int, np.integer, np.bool_))

    def typed(self, value: float) -> float | np.generic:
        """The value in the attribute's own type.

        A whole number may stand for a real one, as in `self.mass = 1`: there a value that is not
        whole stays a float.
        """
        if not issubclass(self.kind, (int, float, np.generic)):
            return value
        typed: float | np.generic = self.kind(value)
        return typed if typed == value or not self.whole else value

    def write(self, env: Env, value: float) -> None:
        """Sets the attribute.

        Raises:
            UsageError: it is an element of an array of whole numbers, and the value is not whole.

        """
        owner, typed = self.owners(env)[-1], self.typed(value)
        if self.index is None:
            setattr(owner, self.name, typed)
        elif self.whole and typed is value:
            raise UsageError(f"{self.path} holds whole numbers, not {value:g}")
        else:
            getattr(owner, self.name)[self.index] = typed

    def owners(self, env: Env) -> list[object]:
        """The objects on the way, from the environment to the one that has the attribute."""
        owners: list[object] = [env]
        for name in self.holders:
            owners.append(getattr(owners[-1], name))
        return owners


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


def _refresh_models(env: Env, attributes: Iterable[Attribute]) -> None:
    """Recomputes what the MuJoCo models that hold the attributes derive from their fields."""
    mujoco: Any = sys.modules.get("mujoco")
    if mujoco is None:
        return
    owners = {id(owner): owner for attribute in attributes for owner in attribute.owners(env)}
    for owner in owners.values():
        if isinstance(owner, mujoco.MjModel):
            mujoco.mj_setConst(owner, mujoco.MjData(owner))


def _derivation(env: Env, reference: str) -> Callable[[Env], None]:
    """The function to call after values are written: the known derivation, then `reference`."""
    known = KNOWN_DERIVATIONS.items()
    names = {f"{kind.__module__}:{kind.__qualname__}" for kind in type(env).__mro__}
    functions = [function for name, function in known if name in names]
    if reference:
        module, _, name = reference.partition(":")
        given = getattr(importlib.import_module(module), name, None) if name else None
        if not callable(given):
            raise UsageError(f"derive {reference} must be MODULE:FUNCTION of a function")
        functions.append(given)

    def derive(unwrapped: Env) -> None:
        for function in functions:
            function(unwrapped)

    return derive


def _derive_cart_pole(env: Any) -> None:
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length


KNOWN_DERIVATIONS: dict[str, Callable[[Env], None]] = {
    "gymnasium.envs.classic_control.cartpole:CartPoleEnv": _derive_cart_pole,
}
"""For a class, the function that updates what its `__init__` computes from other attributes.
Gymnasium's other classic control environments compute only the bounds of their spaces."""


def _different(one: Env, other: Env) -> set[str]:
    """Names of attributes of both whose numbers differ."""
    mine, theirs = vars(one), vars(other)
    return {
        name
        for name in mine.keys() & theirs.keys()
        if isinstance(mine[name], (int, float, np.number, np.ndarray))
        and not np.array_equal(mine[name], theirs[name])
    }


def _made_with(env: Env, values: Mapping[str, float | np.generic]) -> Env | None:
    """An environment of the same class whose `__init__` sees `values` for these attributes.

    None if its `__init__` fails with them.
    """
    kind = type(env)
    replaced = dict(values)

    def set_attribute(self: Env, name: str, value: object) -> None:
        kind.__setattr__(self, name, replaced.get(name, value))

    of_class = {name: value for name, value in values.items() if hasattr(kind, name)}
    altered = type(kind.__name__, (kind,), {**of_class, "__setattr__": set_attribute})
    options = dict(env.spec.kwargs) if env.spec is not None else {}
    options.pop("render_mode", None)
    # Other attributes may be computed from an argument of the same name.
    arguments = inspect.signature(kind).parameters
    options |= {name: value for name, value in values.items() if name in arguments}
    try:
        made: Env = altered(**options)
    except Exception:  # from the environment's own code, which may reject these values
        return None
    replaced.clear()
    return made


def _names_read(kind: type) -> set[str]:
    """Names that the methods of a class use, without those in `__init__` alone."""
    functions = [
        function
        for base in kind.__mro__
        for name, function in vars(base).items()
        if inspect.isfunction(function) and name != "__init__"
    ]
    return {name for function in functions for name in function.__code__.co_names}
