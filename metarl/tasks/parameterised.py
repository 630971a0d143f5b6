"""An existing Gymnasium environment as a task family, without a class of its own."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt

from metarl.support.errors import UsageError
from metarl.support.modules import import_object
from metarl.tasks.distributions import (
    Choice,
    Distribution,
    TaskDistribution,
    Uniform,
    distribution_from_json,
)
from metarl.tasks.family import TaskFamily, make_family
from metarl.tasks.registry import ENVIRONMENT, find_spec
from metarl.tasks.task import Task, validate_tasks

if TYPE_CHECKING:
    from gymnasium.envs.classic_control import CartPoleEnv

Derivation = Callable[[Any], None]
"""Updates an unwrapped environment of some class after the task's values are written into it."""


class ParameterisedEnv(gymnasium.Env):
    """An existing Gymnasium environment whose task sets some of its attributes.

    `parameters` maps each task parameter to [attribute, low, high] or to [attribute, distribution],
    where the distribution of a number is given as data (`metarl.tasks.distributions`). Without
    parameters the family has a single task. Attributes are those of the unwrapped environment, with
    dots and indices: `"m"`, `"model.body_mass[1]"`. Values are written before each reset, in the
    type of the attribute: 2.0 is written as 2 if the attribute is an int.

    Values that the environment derives from an attribute in its `__init__` must be updated with it.
    For MuJoCo models and for Gymnasium's CartPole this happens automatically. For others `derive`
    names a function as `"module:function"`, which is called with the unwrapped environment after
    the values are written. `metarl check` finds derived attributes that are not updated.

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
        self,
        env_id: str,
        parameters: Mapping[str, Sequence[Any]],
        derive: str = "",
        **options: Any,
    ):
        """Makes `env_id` with `options`; the family's time limit replaces its own.

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
        """Draws a task of a split."""
        return self.tasks.sample(generator, split)

    @property
    def task(self) -> Task:
        """The task that takes effect at the next reset."""
        return dict(self._task)

    @task.setter
    def task(self, task: Mapping[str, npt.ArrayLike]) -> None:
        self._task = validate_tasks(self.task_space, task, None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[object, dict[str, object]]:
        """Writes the task into the environment and resets it."""
        for name, attribute in self._attributes.items():
            attribute.write(self._env.unwrapped, float(self._task[name]))
        _refresh_models(self._env.unwrapped, self._attributes.values())
        self._derive(self._env.unwrapped)
        return self._env.reset(seed=seed, options=options)

    def step(self, action: object) -> tuple[object, SupportsFloat, bool, bool, dict[str, object]]:
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
        that a method other than `__init__` uses are compared, and not those of nested objects such
        as a MuJoCo model.
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
        # An attribute that the first step updates is updated in time, and a state that differs
        # only after that step is a consequence.
        differ &= _different(self._env.unwrapped, made)
        made.close()
        return sorted(differ & _names_read(type(self._env.unwrapped)) - values.keys())


@dataclass(frozen=True)
class Attribute:
    """A number somewhere in an environment."""

    path: str
    """For example `"m"` or `"model.body_mass[1]"`."""
    holders: tuple[str, ...]
    """Names on the path from the environment to the object that has the attribute."""
    name: str
    index: tuple[int, ...] | None
    """Index into the attribute if it is an array; None if it is a number."""
    kind: type
    """Type of the original number."""

    @classmethod
    def find(cls, env: object, path: str) -> Self:
        """The attribute of an environment at `path`.

        Raises:
            UsageError: there is no such attribute.

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
        """Whether the original number is an integer or a bool."""
        return issubclass(self.kind, (int, np.integer, np.bool_))

    def typed(self, value: float) -> float | np.generic:
        """The value in the attribute's own type.

        An attribute such as `self.mass = 1` may be an integer and still mean a real number, so a
        value that is not whole stays a float.
        """
        if not issubclass(self.kind, (int, float, np.generic)):
            return value
        typed: float | np.generic = self.kind(value)
        return typed if typed == value or not self.whole else value

    def write(self, env: object, value: float) -> None:
        """Sets the attribute.

        Raises:
            UsageError: it is an element of an integer array, and the value is not whole.

        """
        owner, typed = self.owners(env)[-1], self.typed(value)
        if self.index is None:
            setattr(owner, self.name, typed)
        elif self.whole and typed is value:
            raise UsageError(f"{self.path} holds whole numbers, not {value:g}")
        else:
            getattr(owner, self.name)[self.index] = typed

    def owners(self, env: object) -> list[object]:
        """The objects on the path from the environment to the one that has the attribute."""
        owners = [env]
        for name in self.holders:
            owners.append(getattr(owners[-1], name))
        return owners


def single_task_family(env_id: str, horizon: int | None = None) -> TaskFamily:
    """A registered environment without a task as a family whose only task is the environment.

    Raises:
        UsageError: there is no such environment, or it has no horizon and none is given.

    """
    spec = find_spec(env_id, ENVIRONMENT)
    name = f"metarl/{spec.id.replace('/', '-')}"  # an id has one namespace
    if name not in gymnasium.registry:
        gymnasium.register(
            name,
            entry_point="metarl.tasks.parameterised:ParameterisedEnv",
            max_episode_steps=spec.max_episode_steps or horizon,
            kwargs={"env_id": env_id, "parameters": {}},
        )
    return make_family(name)


def _distribution(name: str, *given: Any) -> Distribution:
    """The distribution of a number, from low and high or from data."""
    if len(given) == 1 and isinstance(given[0], Mapping):
        distribution = distribution_from_json(name, given[0])
    elif len(given) == 2:
        distribution = Uniform(*given)
    else:
        raise UsageError(f"task parameter {name}: needs low and high, or a distribution")
    if distribution.space.shape != ():
        raise UsageError(
            f"task parameter {name}: {distribution} must be a distribution of single numbers"
        )
    return distribution


def _refresh_models(env: object, attributes: Iterable[Attribute]) -> None:
    """Recomputes the derived constants of the MuJoCo models that contain the attributes."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:
        return
    owners = {id(owner): owner for attribute in attributes for owner in attribute.owners(env)}
    for owner in owners.values():
        if isinstance(owner, mujoco.MjModel):
            mujoco.mj_setConst(owner, mujoco.MjData(owner))


def _derivation(env: object, reference: str) -> Derivation:
    """The function to call after values are written: the known derivation, then `reference`."""
    known = KNOWN_DERIVATIONS.items()
    names = {f"{kind.__module__}:{kind.__qualname__}" for kind in type(env).__mro__}
    functions = [function for name, function in known if name in names]
    if reference:
        given = import_object(reference, "derive")
        if not callable(given):
            raise UsageError(f"derive {reference} cannot be called: it must be MODULE:FUNCTION")
        functions.append(given)

    def derive(unwrapped: object) -> None:
        for function in functions:
            function(unwrapped)

    return derive


def _derive_cart_pole(env: "CartPoleEnv") -> None:
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length


KNOWN_DERIVATIONS: dict[str, Derivation] = {
    "gymnasium.envs.classic_control.cartpole:CartPoleEnv": _derive_cart_pole,
}
"""Functions by class, each of which updates what `__init__` computes from other attributes.
Gymnasium's other classic control environments compute only the bounds of their spaces."""


def _different(one: object, other: object) -> set[str]:
    """Names of the attributes of both environments whose numbers differ."""
    mine, theirs = vars(one), vars(other)
    return {
        name
        for name in mine.keys() & theirs.keys()
        if isinstance(mine[name], (int, float, np.number, np.ndarray))
        and not np.array_equal(mine[name], theirs[name])
    }


def _made_with(env: gymnasium.Env, values: Mapping[str, object]) -> gymnasium.Env | None:
    """An environment of the same class whose `__init__` finds `values` in these attributes.

    Returns None if `__init__` fails with them.
    """
    kind = type(env)
    replaced = dict(values)

    def set_attribute(self: gymnasium.Env, name: str, value: object) -> None:
        kind.__setattr__(self, name, replaced.get(name, value))

    of_class = {name: value for name, value in values.items() if hasattr(kind, name)}
    altered = type(kind.__name__, (kind,), {**of_class, "__setattr__": set_attribute})
    options = dict(env.spec.kwargs) if env.spec is not None else {}
    options.pop("render_mode", None)
    # Other attributes may be computed from an argument of the same name.
    arguments = inspect.signature(kind).parameters
    options |= {name: value for name, value in values.items() if name in arguments}
    try:
        made: gymnasium.Env = altered(**options)
    except Exception:  # from the environment's own code, which may reject these values
        return None
    replaced.clear()
    return made


def _names_read(kind: type) -> set[str]:
    """Names that the methods of a class other than `__init__` use."""
    functions = [
        function
        for base in kind.__mro__
        for name, function in vars(base).items()
        if inspect.isfunction(function) and name != "__init__"
    ]
    return {name for function in functions for name in function.__code__.co_names}
