"""Tasks, as values of named parameters that are checked against a task space."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from metarl.support.errors import UsageError, expect_instance
from metarl.support.types import Space
from metarl.tasks.distributions import finite_split

Task = dict[str, Any]
"""One task: values by parameter name."""

Tasks = dict[str, np.ndarray]
"""Many tasks: arrays [tasks, ...] by parameter name."""


def count_tasks(tasks: Tasks) -> int:
    """Number of tasks in arrays [tasks, ...]."""
    return len(next(iter(tasks.values())))


def stack_tasks(tasks: list[Task]) -> Tasks:
    """A list of tasks as arrays with a leading [tasks] dimension."""
    return {name: np.stack([np.asarray(task[name]) for task in tasks]) for name in tasks[0]}


def select_tasks(tasks: Tasks, index: int | slice | Sequence[int] | np.ndarray) -> Tasks:
    """The tasks at `index` (an int gives one task, an array or a slice several)."""
    return {name: np.asarray(values[index]) for name, values in tasks.items()}


def task_hashes(tasks: Tasks) -> list[str]:
    """A hash of each task: those of equal tasks alone are equal."""
    return [hash_of(*select_tasks(tasks, i).values()) for i in range(count_tasks(tasks))]


def first_of_each(tasks: Tasks, order: Iterable[int]) -> list[int]:
    """The places in `order` whose task has none before: each task once."""
    hashes, first = task_hashes(tasks), dict[str, int]()
    for i in order:
        first.setdefault(hashes[i], i)
    return list(first.values())


def hash_of(*values: np.ndarray) -> str:
    """A hash of arrays' numbers."""
    parts = [x + 0 if x.dtype.kind == "f" else x for x in values]  # −0 and 0 are equal
    return hashlib.blake2b(b"".join(np.asarray(x).tobytes() for x in parts)).hexdigest()


def validate_tasks(
    task_space: spaces.Dict, tasks: Mapping[str, npt.ArrayLike], number: int | None
) -> Tasks:
    """`tasks` as arrays, checked against the space: [number, ...], or one task if None.

    Raises:
        UsageError: it is no dict, or a parameter is missing, unknown, of another shape or outside
            its range; the message names the first one, with its value and range.

    """
    expect_instance(tasks, Mapping, f"a task must be a dict of {', '.join(task_space)}")
    if set(tasks) != set(task_space):
        named = sorted(map(str, tasks))
        raise UsageError(f"task has parameters {named}, but its space has {sorted(task_space)}")
    batch = () if number is None else (number,)
    checked = {}
    for name, space in task_space.items():
        values = _converted(name, tasks[name], space)
        shape = space.shape or ()
        if values.shape != (*batch, *shape):
            expected = (*batch, *shape)
            raise UsageError(f"task parameter {name} has shape {values.shape}, not {expected}")
        if isinstance(space, spaces.Box):
            allowed = f"[{space.low.min():g}, {space.high.max():g}]"
            inside = (values >= space.low) & (values <= space.high)
        elif (sizes := finite_sizes(space)) is not None:
            first = np.broadcast_to(first_value(space), shape)
            inside = (values >= first) & (values < first + sizes)
            ends = np.unique(np.stack([np.ravel(first), np.ravel(first + sizes) - 1], 1), axis=0)
            allowed = ", ".join(f"{low} to {high}" for low, high in ends)
        else:
            raise UsageError(
                f"task parameter {name} is a {space}; it must be a Box, Discrete, MultiDiscrete or "
                "MultiBinary"
            )
        if not inside.all():
            value = values[~inside][0]
            raise UsageError(f"task parameter {name} = {value:g} is outside {allowed}")
        # Later writes to the caller's array must not change the task.
        checked[name] = values.copy()
    return checked


def _converted(name: str, value: npt.ArrayLike, space: Space) -> np.ndarray:
    """The value of a parameter in the type of its space, where no number is lost."""
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biuf":
            raise TypeError("it is not of real numbers")
        with np.errstate(invalid="ignore"):  # NaN is outside every range
            values: np.ndarray = np.asarray(given, space.dtype)
    except Exception as error:
        text = f"{type(value).__name__} {' '.join(repr(value).split())[:60]}"
        raise UsageError(f"task parameter {name} is the {text}, not numbers: {error}") from None
    if values.dtype.kind in "iu" and given.dtype.kind == "f" and not (values == given).all():
        wrong = np.ravel(given)[np.ravel(values != given)][0]
        raise UsageError(f"task parameter {name} = {wrong:g} must be a whole number")
    return values


def expect_task_space(family: str, space: spaces.Dict) -> None:
    """Checks that a space is one of tasks.

    Raises:
        UsageError: it is empty, or a parameter is of a space that has no numbers of its own.

    """
    if not space.spaces:
        raise UsageError(f"{family}: task_space is empty; a task needs at least one parameter")
    kinds = spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary
    for name, part in space.items():
        if not isinstance(name, str) or not isinstance(part, kinds):
            raise UsageError(
                f"{family}: task parameter {name!r} is a {type(part).__name__}; it must be a Box, "
                "Discrete, MultiDiscrete or MultiBinary with a name"
            )
        if not math.prod(part.shape or ()):
            raise UsageError(f"{family}: task parameter {name} has shape {part.shape}: no numbers")


def parse_task(task_space: spaces.Dict, assignments: Sequence[str], rest: Task) -> Task:
    """The task that assignments such as `velocity=1.5` and `goal=0.3,-0.2` describe.

    Parameters that are not assigned have their values in `rest`.

    Raises:
        UsageError: an assignment is malformed, or names an unknown parameter, one twice, or a value
            outside the space.

    """
    task = dict(rest)
    given: set[str] = set()
    for assignment in assignments:
        name, equals, text = map(str.strip, assignment.partition("="))
        if not equals:
            raise UsageError(f"--task {assignment} must be PARAMETER=NUMBER")
        if name not in task_space.spaces:
            known = ", ".join(task_space.spaces)
            raise UsageError(f"--task {assignment}: a task has {known}, not {name}")
        if name in given:
            raise UsageError(f"--task {' '.join(assignments)} gives {name} twice")
        given.add(name)
        try:
            numbers = [float(number) for number in text.split(",")]
        except ValueError:
            raise UsageError(
                f"--task {assignment}: {text} must be numbers separated by commas"
            ) from None
        shape = task_space[name].shape or ()
        if len(numbers) != math.prod(shape):
            raise UsageError(
                f"--task {assignment}: {name} needs {math.prod(shape)} numbers, separated by commas"
            )
        task[name] = np.reshape(numbers, shape)
    return validate_tasks(task_space, task, None)


MOST_LISTED = 2**20
"""Finite tasks of which a fifth can be held out."""


def finite_sizes(space: Space) -> np.ndarray | None:
    """The number of values of each element of a finite space; None for a space of real numbers."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.nvec)
    if isinstance(space, spaces.MultiBinary):
        return np.full(space.shape, 2)
    return None


def first_value(space: Space) -> np.ndarray:
    """The smallest value of each element of a finite space."""
    return np.asarray(getattr(space, "start", 0), np.int64)


MOST_SHOWN = 8
"""Numbers of a parameter that a task's name shows."""


def task_name(task: Task) -> str:
    """A task in the form of `--task`: `goal=0.3,-0.2 mass=2`, with four digits.

    A parameter of more than `MOST_SHOWN` numbers has the beginning of a hash: `mean=#1f09ac`.
    """
    return " ".join(f"{name}={_shown(np.asarray(value))}" for name, value in task.items())


def has_exact_name(task: Task) -> bool:
    """Whether no other task has the same `task_name`."""
    values = [np.ravel(value) for value in task.values()]
    return all(
        v.size <= MOST_SHOWN and (np.array(_shown(v).split(","), float).astype(v.dtype) == v).all()
        for v in values
    )


def _shown(value: np.ndarray) -> str:
    if value.size > MOST_SHOWN:
        return f"#{hash_of(value)[:6]}"
    return ",".join(f"{x:.4g}" for x in np.ravel(value))


def uniform_task(task_space: spaces.Dict, generator: np.random.Generator, split: str) -> Task:
    """Draws a task uniformly from the space; a fifth of more than two finite tasks is held out."""
    sizes = {name: finite_sizes(space) for name, space in task_space.items()}
    finite = [np.ravel(own) for own in sizes.values() if own is not None]
    if len(finite) == len(task_space):
        every = np.concatenate(finite)
        number = math.prod(every.tolist())
        if number <= MOST_LISTED:
            index = generator.choice(finite_split(number, split, scattered=len(every) > 1))
            indices = np.array(np.unravel_index(index, every))
            each = np.split(indices, np.cumsum([own.size for own in finite])[:-1])
            return {
                name: first_value(space) + values.reshape(space.shape or ())
                for (name, space), values in zip(task_space.items(), each, strict=True)
            }
    task: Task = {}
    for name, space in task_space.items():
        own = sizes[name]
        if own is not None:
            task[name] = first_value(space) + generator.integers(own)
        elif isinstance(space, spaces.Box) and space.is_bounded() and space.dtype.kind in "iu":
            # Truncated real numbers would never reach the upper bound.
            draw = generator.integers(space.low, space.high, dtype=space.dtype, endpoint=True)
            task[name] = np.asarray(draw)
        elif isinstance(space, spaces.Box) and space.is_bounded():
            drawn = np.asarray(generator.uniform(np.float64(space.low), np.float64(space.high)))
            # Rounding to a narrower type must not leave the space.
            task[name] = np.asarray(np.clip(drawn.astype(space.dtype), space.low, space.high))
        else:
            raise UsageError(f"task parameter {name} has no bounds to draw uniformly from: {space}")
    return task
