"""What a task family is: a Gymnasium environment with a task, and a distribution over tasks.

An environment is a family when its unwrapped environment has

- `task_space`, a `gymnasium.spaces.Dict` of named, physical parameters, and
- `task`, a settable dict in that space, which takes effect at the next `reset` and stays.

It may say more: `splits` (names, at least train and test), `sample_task(generator, split)`, and
`visible`, the names of parameters that observations may show (none, if it is not said).
Without them tasks are uniform over `task_space`, and a finite space of more than two tasks is
divided so that `train` and `test` are disjoint.
"""

import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.distributions import TaskDistribution, finite_split
from metarl.errors import UsageError
from metarl.randomness import RandomKey, Use

Task = dict[str, Any]
"""One task: a value in the task space by parameter name."""

Tasks = dict[str, np.ndarray]
"""Many tasks: arrays [tasks, ...] by parameter name."""

ENTRY_POINT_GROUP = "metarl.task_families"
SPLITS = ("train", "test")


def stack_tasks(tasks: list[Task]) -> Tasks:
    """A list of tasks as arrays with a leading [tasks] dimension."""
    return {name: np.stack([np.asarray(task[name]) for task in tasks]) for name in tasks[0]}


def select_tasks(tasks: Tasks, index: Any) -> Tasks:
    """The tasks at `index` (an int gives one task, an array or a slice several)."""
    return {name: np.asarray(values[index]) for name, values in tasks.items()}


def validate_tasks(task_space: spaces.Dict, tasks: Mapping[str, Any], number: int | None) -> Tasks:
    """`tasks` as arrays, checked against the space: [number, ...], or one task if None.

    Raises:
        UsageError: names the first parameter that is missing, unknown, of another shape or
            outside its range, with the value and the range.

    """
    if set(tasks) != set(task_space):
        raise UsageError(f"task has parameters {sorted(tasks)}, the space {sorted(task_space)}")
    batch = () if number is None else (number,)
    checked = {}
    for name, space in task_space.items():
        values = np.asarray(tasks[name], space.dtype)
        shape = space.shape or ()
        if values.shape != (*batch, *shape):
            expected = (*batch, *shape)
            raise UsageError(f"task parameter {name} has shape {values.shape}, not {expected}")
        if isinstance(space, spaces.Box):
            allowed = f"[{space.low.min():g}, {space.high.max():g}]"
            inside = (values >= space.low) & (values <= space.high)
        elif isinstance(space, spaces.Discrete):
            allowed = f"{space.start} to {space.start + space.n - 1}"
            inside = (values >= space.start) & (values < space.start + space.n)
        else:
            raise UsageError(f"task parameter {name} is a {space}; a Box or Discrete is supported")
        if not inside.all():
            value = values[~inside][0]
            raise UsageError(f"task parameter {name} = {value:g} is outside {allowed}")
        # Later writes to the caller's array must not change the task.
        checked[name] = values.copy()
    return checked


def parse_task(task_space: spaces.Dict, assignments: Sequence[str], rest: Task) -> Task:
    """`velocity=1.5`, `goal=0.3,-0.2`: a task of the space; `rest` has what is not assigned.

    Raises:
        UsageError: what is not an assignment of numbers, an unknown parameter, or a value outside
            the space.

    """
    task = dict(rest)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--task {assignment} must be PARAMETER=NUMBER")
        if name not in task_space.spaces:
            known = ", ".join(task_space.spaces)
            raise UsageError(f"--task {assignment}: a task has {known}, not {name}")
        try:
            numbers = [float(number) for number in text.split(",")]
        except ValueError:
            raise UsageError(f"--task {assignment}: {text} must be numbers with commas") from None
        shape = task_space[name].shape or ()
        if len(numbers) != math.prod(shape):
            raise UsageError(
                f"--task {assignment}: {name} has {math.prod(shape)} numbers, with commas between"
            )
        task[name] = np.reshape(numbers, shape)
    return validate_tasks(task_space, task, None)


def uniform_task(task_space: spaces.Dict, generator: np.random.Generator, split: str) -> Task:
    """A task uniform over the space; of a finite one with over two tasks, a fifth is for test."""
    finite = {n: space for n, space in task_space.items() if isinstance(space, spaces.Discrete)}
    if len(finite) == len(task_space):
        sizes = [int(space.n) for space in finite.values()]
        indices = finite_split(math.prod(sizes), split)
        values = np.unravel_index(generator.choice(indices), sizes)
        return {
            name: space.start + value
            for (name, space), value in zip(finite.items(), values, strict=True)
        }
    task: Task = {}
    for name, space in task_space.items():
        if isinstance(space, spaces.Discrete):
            task[name] = space.start + generator.integers(space.n)
        elif isinstance(space, spaces.Box) and space.is_bounded():
            drawn = np.asarray(generator.uniform(np.float64(space.low), np.float64(space.high)))
            # Rounding to a narrower type must not leave the space.
            task[name] = np.asarray(np.clip(drawn.astype(space.dtype), space.low, space.high))
        else:
            raise UsageError(f"task parameter {name} has no bounds to draw uniformly from: {space}")
    return task


@dataclass(frozen=True)
class TaskFamily:
    """A registered family: makes its environments and draws its tasks. `make_family` makes one."""

    id: str
    """Gymnasium id; `module:Id` imports the module first."""
    horizon: int
    """Steps after which an episode is truncated."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment: the family's variant."""

    @functools.cached_property
    def spec(self) -> gymnasium.envs.registration.EnvSpec:
        """Gymnasium's entry for the id."""
        return find_spec(self.id)

    @functools.cached_property
    def prototype(self) -> gymnasium.Env:
        """One environment of the family, to ask for its spaces and tasks."""
        env = self.make()
        base: Any = env.unwrapped
        for name in ("task_space", "task"):
            if not hasattr(base, name):
                raise UsageError(
                    f"{self.id} is an environment without a task: {type(base).__name__} has no "
                    f"{name}; give it task_space and task, or wrap it in "
                    "metarl.parameterised.ParameterisedEnv"
                )
        if not isinstance(base.task_space, spaces.Dict):
            raise UsageError(f"{self.id}: task_space is a {base.task_space}, not a spaces.Dict")
        return env

    @property
    def task_space(self) -> spaces.Dict:
        """Space of the tasks."""
        base: Any = self.prototype.unwrapped
        space: spaces.Dict = base.task_space
        return space

    @property
    def distribution(self) -> TaskDistribution:
        """How the parameters are distributed; without parameters where the family declares none."""
        base: Any = self.prototype.unwrapped
        declaration = getattr(base, "family", base)
        distribution: TaskDistribution = getattr(declaration, "tasks", TaskDistribution())
        return distribution

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(getattr(self.prototype.unwrapped, "splits", SPLITS))

    def make(self, **options: Any) -> gymnasium.Env:
        """A single environment."""
        options = {**self.options, **options}
        # The checks and the order-enforcing wrapper of make() would cost more than many a step.
        return gymnasium.make(
            self.spec, max_episode_steps=self.horizon, disable_env_checker=True, **options
        )

    def describe(self) -> dict[str, Any]:
        """What config.json of a run holds of the family and its variant."""
        declaration = getattr(self.prototype.unwrapped, "family", None)
        return {
            "id": self.id,
            "options": dataclasses.asdict(declaration) if declaration else self.options,
            "task_space": {name: str(space) for name, space in self.task_space.items()},
            "splits": self.splits,
            "observation_space": str(self.prototype.observation_space),
            "action_space": str(self.prototype.action_space),
        }

    def check_split(self, split: str) -> None:
        """Whether the family has the split.

        Raises:
            UsageError: it does not; names those that it has.

        """
        if split not in self.splits:
            raise UsageError(f"{self.id} has no split {split}; it has {', '.join(self.splits)}")

    def sample_tasks(self, number: int, key: RandomKey, split: str = "train") -> Tasks:
        """`number` tasks of a split, checked against the space: arrays [number, ...]."""
        self.check_split(split)
        sample = getattr(self.prototype.unwrapped, "sample_task", None) or functools.partial(
            uniform_task, self.task_space
        )
        # A stream for each split, so that the tasks of one are never those of another.
        stream = self.splits.index(split)
        tasks = [sample(key.generator(Use.TASK, i, stream), split) for i in range(number)]
        return validate_tasks(self.task_space, stack_tasks(tasks), number)


def make_family(id: str, horizon: int | None = None, **options: Any) -> TaskFamily:
    """The family registered under `id`, with its own horizon unless one is given.

    Raises:
        UsageError: an unknown id (with the closest one), an environment without a task, an
            option that it does not take, or no horizon anywhere.

    """
    spec = find_spec(id)
    horizon = horizon if horizon is not None else spec.max_episode_steps
    if horizon is None:
        raise UsageError(f"{id} is registered without max_episode_steps: give a horizon")
    family = TaskFamily(id, horizon, options)
    try:
        _ = family.prototype  # made here, so that a bad option is an error here
    except TypeError as error:
        raise UsageError(f"{id} cannot be made with {options}: {error}") from error
    return family


def import_family_module(module: str) -> None:
    """Imports a module of families, from the working folder too, as `python -m` would."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # one of its own imports
        raise UsageError(
            f"there is no module {module} here or among the installed packages"
        ) from None


def find_spec(id: str) -> gymnasium.envs.registration.EnvSpec:
    """Gymnasium's entry for `Id` or `module:Id`; the module is imported first.

    Raises:
        UsageError: an unknown module or id, with the closest family, or what is neither form.

    """
    naming = f"task families are named MODULE:ID, as in envs:HalfCheetahDir-v0, not {id!r}"
    module, colon, name = id.rpartition(":")
    if not name or (colon and not module.split(".")[0]):
        raise UsageError(naming)
    if module:
        import_family_module(module)
    elif name not in gymnasium.registry:
        import_announced_modules()
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    if not module and "." in name:  # a dot in the place of the colon
        raise UsageError(naming)
    where = f"module {module} ({_origin(module)}) registers no" if module else "there is no"
    close = difflib.get_close_matches(name, registered_families(), 1, cutoff=0.5)
    hint = f"; did you mean {f'{module}:' if module else ''}{close[0]}?" if close else ""
    raise UsageError(f"{where} task family {name}{hint}")


def registered_families() -> list[str]:
    """Ids of all families: of announced modules, and those that use the adapters of metarl."""
    packages = {"metarl", *import_announced_modules()}
    return sorted(
        name
        for name, spec in gymnasium.registry.items()
        if isinstance(spec.entry_point, str)
        and spec.entry_point.split(":")[0].split(".")[0] in packages
    )


def import_announced_modules() -> list[str]:
    """Imports the modules that installed packages announce, and returns their names."""
    modules = [e.value for e in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)]
    for module in modules:
        import_family_module(module)
    return modules


def _origin(module: str) -> str:
    return str(getattr(sys.modules[module], "__file__", None) or "a namespace package")
