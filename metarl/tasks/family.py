"""Task families: Gymnasium environments with a task, and a distribution over tasks.

An environment is a family when it, or one of its wrappers, is a `TaskEnv`. It may have the
attributes below. Each is used only if it has the type named here, so that an environment may use
these names for its own purposes:

- `sample_task(generator, split)`, a method that draws a task of a split;
- `sample_task_set(generator, split, number)`, a method that draws so many tasks at once, as a list,
  where they are not independent: a benchmark takes as many of each of its environments;
- `tasks`, a `TaskDistribution` that draws the tasks if there is neither of these;
- `splits`, a tuple or list of names with at least train and test;
- `visible`, a collection of the names of parameters that observations may show (otherwise none);
- `tuned`, a dict of options of `metarl train`, by the name of an algorithm or a learner;
- `family`, a `DeclaredFamily`: the declaration that the environment was made from.

Without these methods and `tasks`, tasks are uniform over `task_space`, and a finite space of more
than two tasks is divided so that `train` and `test` are disjoint.
"""

import contextlib
import dataclasses
import functools
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from metarl.support.errors import FamilyError, UnfitError, UsageError, expect_instance, hint_of_call
from metarl.support.foreign import START_LIMIT, Calling
from metarl.support.options import with_truth_values
from metarl.support.places import described
from metarl.support.randomness import RandomKey, Use
from metarl.support.signals import is_request_to_end
from metarl.support.types import Json
from metarl.tasks.declaration import DeclaredFamily, DynamicsFamily, load_declaration
from metarl.tasks.distributions import TaskDistribution
from metarl.tasks.registry import REGISTER, expect_id, find_spec
from metarl.tasks.task import (
    Task,
    Tasks,
    expect_task_space,
    stack_tasks,
    task_hashes,
    uniform_task,
    validate_tasks,
)

SPLITS = ("train", "test")
DECLARED = ("metarl.simulation.mujoco:MujocoEnv", "metarl.simulation.dynamics:DynamicsEnv")
"""Entry points of declared families, whose registration refers to the declaration."""

OF_EVERY_ENVIRONMENT = (OrderEnforcing, PassiveEnvChecker, TimeLimit)
"""The wrappers that `gymnasium.make` puts around environments."""

DRAWS = 64
"""Tasks of each split by which a family is found to hold out none: they are few."""

T = TypeVar("T")


class TaskEnv(Protocol):
    """An environment with a task, or the wrapper that gives it one."""

    task_space: spaces.Dict
    """Space of the named, physical parameters; each is a Box or Discrete."""
    task: Task
    """A value in the space. A new value takes effect at the next `reset` and persists."""


def task_environment(env: gymnasium.Env) -> TaskEnv:
    """The outermost environment or wrapper that has a task.

    Raises:
        UsageError: none of them has `task_space` and `task`.

    """
    names = ("task_space", "task")
    layer: gymnasium.Env = env
    while isinstance(layer, gymnasium.Wrapper):
        # A wrapper may forward reading, but not writing, of attributes to its environment.
        if all(name in vars(layer) or hasattr(type(layer), name) for name in names):
            return cast(TaskEnv, layer)
        layer = layer.env
    for name in names:
        if not hasattr(layer, name):
            raise UsageError(
                f"{env.spec.id if env.spec else env} is an environment without a task: "
                f"{type(layer).__name__} has no {name}; give it task_space and task, or wrap it in "
                "metarl.tasks.parameterised.ParameterisedEnv"
            )
    return cast(TaskEnv, layer)


@dataclass(frozen=True)
class TaskFamily:
    """A registered family, which makes its environments and draws its tasks; see `make_family`."""

    id: str
    """Gymnasium id; `module:Id` imports the module first."""
    horizon: int
    """Steps after which an episode is truncated."""
    options: Json = field(default_factory=dict)
    """Keyword arguments of the environment: the family's variant."""

    @functools.cached_property
    def spec(self) -> gymnasium.envs.registration.EnvSpec:
        """Gymnasium's entry for the id."""
        return find_spec(self.id)

    @functools.cached_property
    def prototype(self) -> gymnasium.Env:
        """One environment of the family, from which spaces and tasks are read.

        Raises:
            UsageError: the environment cannot be made (the message says where its code fails), or
                it has no task.

        """
        with self._explained(), Calling(lambda: f"{self.id}: __init__", START_LIMIT):
            env = self.make()
            space = task_environment(env).task_space
        if not isinstance(space, spaces.Dict):
            raise UsageError(f"{self.id}: task_space is a {space}, not a spaces.Dict")
        expect_task_space(self.id, space)
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), spaces.Space):
                raise UsageError(f"{self.id}: {name} is {getattr(env, name, None)!r}, not a space")
        return env

    @property
    def task_env(self) -> TaskEnv:
        """The prototype, or the wrapper of it that has the task."""
        return task_environment(self.prototype)

    @functools.cached_property
    def _registered(self) -> DeclaredFamily | None:
        """The declaration that the registration refers to, loaded without a simulator.

        None if the environment decides: it is of another class, or it is wrapped.
        """
        if self.spec.entry_point not in DECLARED or self.spec.additional_wrappers:
            return None
        options = {**self.spec.kwargs, **self.options}
        with self._explained():
            declaration: DeclaredFamily = load_declaration(options.pop("family"), options)
        return declaration

    @functools.cached_property
    def task_space(self) -> spaces.Dict:
        """Space of the tasks."""
        return self._registered.tasks.space if self._registered else self.task_env.task_space

    @property
    def declaration(self) -> DeclaredFamily | None:
        """The declaration behind the environment; None if the family is not a declared one."""
        return self._registered or _of_type(self.task_env, "family", DeclaredFamily)

    @property
    def own_code(self) -> str | None:
        """The class whose code runs around a declared environment, or in its place; None if none.

        What makes a batch from the declaration alone would leave that code out.
        """
        if self._registered:
            return None
        layer: gymnasium.Env = self.prototype
        while isinstance(layer, gymnasium.Wrapper):
            if not isinstance(layer, OF_EVERY_ENVIRONMENT):
                return type(layer).__name__
            layer = layer.env
        kind = type(layer)
        return None if f"{kind.__module__}:{kind.__qualname__}" in DECLARED else kind.__name__

    @property
    def distribution(self) -> TaskDistribution:
        """The distribution of the task parameters; empty if the environment declares none."""
        if self.declaration is not None:
            return self.declaration.tasks
        return _of_type(self.task_env, "tasks", TaskDistribution) or TaskDistribution()

    @property
    def units(self) -> Mapping[str, str]:
        """Units of the task parameters whose distribution has one."""
        units = {n: getattr(d, "unit", "") for n, d in self.distribution.parameters.items()}
        return {name: unit for name, unit in units.items() if unit}

    @property
    def action_scale(self) -> float:
        """Policy actions from -scale to scale cover the range of bounded actions."""
        return 1.0 if self.declaration is None else self.declaration.action_scale

    @property
    def tuned(self) -> Mapping[str, Mapping[str, Any]]:
        """Options of `metarl train`, by the name of an algorithm or a learner."""
        if self.declaration is not None:
            return self.declaration.tuned
        return _of_type(self.task_env, "tuned", dict) or {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits.

        Raises:
            UsageError: `splits` of the environment lacks one of train and test, names a split
                twice, or is a text of them.

        """
        own = () if self._registered else self._names("splits", (tuple, list), SPLITS)
        named = own or self.distribution.splits
        if not set(SPLITS).intersection(named):
            return SPLITS
        if not set(SPLITS).issubset(named) or len(set(named)) != len(named):
            raise UsageError(
                f"{self.id}: splits {named} must contain train and test, and each name once"
            )
        return named

    @property
    def visible(self) -> tuple[str, ...]:
        """Names of the parameters that observations may show.

        Raises:
            UsageError: `visible` of the environment names both parameters and something that is
                not a parameter, or is a text of parameters.

        """
        named = self._names("visible", (tuple, list, set, frozenset), self.task_space)
        unknown = [name for name in named if name not in self.task_space.spaces]
        if unknown and len(unknown) < len(named):
            known = ", ".join(self.task_space)
            raise UsageError(f"{self.id}: visible names {unknown[0]}, but a task has {known}")
        return () if unknown else named

    def _names(
        self, attribute: str, kinds: tuple[type[Collection[object]], ...], known: Collection[str]
    ) -> tuple[str, ...]:
        """The strings in a collection of strings; none if the attribute is anything else.

        Raises:
            UsageError: it is a text that has a known name, which was meant as such a collection.

        """
        value = getattr(self.task_env, attribute, ())
        if isinstance(value, str) and not {*known}.isdisjoint(re.findall(r"\w+", value)):
            wanted = " or ".join(kind.__name__ for kind in kinds[:2])
            raise UsageError(
                f"{self.id}: {attribute} is the text {value!r}; it must be a {wanted} of names"
            )
        if not isinstance(value, kinds):
            return ()
        names = tuple(name for name in value if isinstance(name, str))
        return names if len(names) == len(value) else ()

    @property
    def planar(self) -> bool:
        """Whether observations are points in the plane, in a family with dynamics of its own."""
        shape = self.prototype.observation_space.shape
        return isinstance(self.declaration, DynamicsFamily) and shape == (2,)

    def make(self, **options: object) -> gymnasium.Env:
        """Makes a single environment."""
        given: Json = {**self.options, **options}
        # The environment checker would often take longer than the step itself.
        return gymnasium.make(
            self.spec, max_episode_steps=self.horizon, disable_env_checker=True, **given
        )

    def describe(self) -> Json:
        """The family and its variant as the config.json of a run describes them."""
        declaration = self.declaration
        return {
            "id": self.id,
            "options": self.options if declaration is None else dataclasses.asdict(declaration),
            "task_space": {name: str(space) for name, space in self.task_space.items()},
            "splits": self.splits,
            "observation_space": str(self.prototype.observation_space),
            "action_space": str(self.prototype.action_space),
        }

    def check_split(self, split: str) -> None:
        """Checks that the family has the split.

        Raises:
            UsageError: it does not; the message names the splits that it has.

        """
        if split not in self.splits:
            raise UsageError(f"{self.id} has no split {split}; it has {', '.join(self.splits)}")

    @functools.cached_property
    def holds_out(self) -> bool:
        """Whether there are test tasks that are none of training: not in a family of two tasks."""

        def seen(split: str) -> set[str]:
            return set(task_hashes(self.sample_tasks(DRAWS, RandomKey(0), split)))

        return not seen("test") <= seen("train")

    def sample_tasks(self, number: int, key: RandomKey | int, split: str = "train") -> Tasks:
        """Draws `number` tasks of a split, checked against the space: arrays [number, ...].

        `key` may be a seed.
        """
        self.check_split(split)
        key = RandomKey(key) if isinstance(key, int) else key
        tasks: list[Task] = []
        with Calling(lambda: f"{self.id}: task {len(tasks)} of split {split}") as calling:
            draw = self._draws(number, key, split)
            for i in range(number):
                calling.again()
                drawn = draw(i)
                if not isinstance(drawn, Mapping):
                    raise UnfitError(f"is a {type(drawn).__name__}, not a dict of parameters")
                try:
                    tasks.append(validate_tasks(self.task_space, drawn, None))
                except UsageError as error:
                    where = f"task {len(tasks)} of split {split}"
                    raise UsageError(f"{self.id}: {where}: {error}") from None
        return stack_tasks(tasks)

    def _draws(self, number: int, key: RandomKey, split: str) -> Callable[[int], object]:
        """Gives task i as the family's own code draws it, together with the others or alone."""
        # Each split has its own stream, so that no two splits draw the same tasks.
        stream = self.splits.index(split)
        together = getattr(self.task_env, "sample_task_set", None)
        if not callable(together):
            sample = self._sampler()
            return lambda i: sample(key.generator(Use.TASK, i, stream), split)
        drawn = together(key.generator(Use.TASK, 0, stream), split, number)
        if not isinstance(drawn, Sequence) or len(drawn) != number:
            raise UnfitError(f"is of a sample_task_set that returns no list of {number} tasks")
        return drawn.__getitem__

    def _sampler(self) -> Callable[[np.random.Generator, str], Task]:
        own = getattr(self.task_env, "sample_task", None)
        if callable(own):
            sample: Callable[[np.random.Generator, str], Task] = own
            return sample
        if self.distribution.parameters:
            return self.distribution.sample
        return functools.partial(uniform_task, self.task_space)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns an error of the family's own code in the block into a `UsageError`."""
        try:
            yield
        except UsageError:
            raise
        except BaseException as error:  # also a SystemExit
            if is_request_to_end(error):
                raise
            cause = (error.__cause__ if isinstance(error, FamilyError) else None) or error
            raise UsageError(self._why_not_made(cause)) from cause

    def _why_not_made(self, error: BaseException) -> str:
        """One line on an error of the environment's own code, or of the call with its options."""
        # Gymnasium re-raises a TypeError where it calls the class.
        while _raised_by_gymnasium(error) and isinstance(error.__cause__, TypeError):
            error = error.__cause__
        if _raised_by_gymnasium(error) and isinstance(error, TypeError):  # the call itself fails
            entry = self.spec.entry_point
            load = gymnasium.envs.registration.load_env_creator
            hint = hint_of_call(error, load(entry)) if isinstance(entry, str) else ""
            return f"{self.id} cannot be made with {self.options}: {error}{hint}"
        return f"{self.id} cannot be made: {described(error)}"


def make_family(id: str, horizon: int | None = None, **options: object) -> TaskFamily:
    """The family that is registered under `id`, with its own horizon unless one is given.

    The strings true and false, which a command line gives, are converted to bool.

    Raises:
        UsageError: the id is unknown (the message suggests the closest one), the environment has no
            task, does not accept an option or fails in its own code, or there is no horizon.

    """
    spec = find_spec(id)
    horizon = horizon if horizon is not None else spec.max_episode_steps
    if horizon is None:
        raise UsageError(
            f"{id} is registered without max_episode_steps: give max_episode_steps=STEPS to "
            "gymnasium.register, or --horizon STEPS to metarl train"
        )
    family = TaskFamily(id, horizon, with_truth_values(options))
    _ = family.prototype  # made here, so that a bad option is an error here
    return family


def family_of(family: TaskFamily | str, called: str) -> TaskFamily:
    """The family itself, or that of an id.

    Raises:
        UsageError: it is neither; the message begins with what was `called`.

    """
    if isinstance(family, str):
        return make_family(family)
    wanted = f"{called} takes the id of a registered family, or a metarl.TaskFamily"
    expect_instance(family, TaskFamily, wanted, REGISTER)
    return family


def expect_named(family: object) -> None:
    """Checks that an option names a family; tyro's mark of a missing option passes.

    Raises:
        UsageError: what could be taken for a family is in the place of its name.

    """
    if isinstance(family, type | gymnasium.Env | TaskFamily):
        expect_id(family)


def _raised_by_gymnasium(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename == gymnasium.envs.registration.__file__


def _of_type(env: TaskEnv, name: str, kind: type[T]) -> T | None:
    """The attribute if it has the type; the environment may use the name for something else."""
    value = getattr(env, name, None)
    return value if isinstance(value, kind) else None
