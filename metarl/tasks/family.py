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
import sys
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium import spaces

from metarl.support.errors import UsageError
from metarl.support.randomness import RandomKey, Use
from metarl.tasks.distributions import TaskDistribution
from metarl.tasks.task import (
    Tasks,
    stack_tasks,
    uniform_task,
    validate_tasks,
)

ENTRY_POINT_GROUP = "metarl.task_families"
SPLITS = ("train", "test")


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
                    "metarl.tasks.parameterised.ParameterisedEnv"
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
    def action_scale(self) -> float:
        """Policy actions from -scale to scale cover the range of bounded actions."""
        declaration = getattr(self.prototype.unwrapped, "family", None)
        return float(getattr(declaration, "action_scale", 1.0))

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
