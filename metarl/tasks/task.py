"""Tasks, as values of named parameters that are checked against a task space."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from metarl.support.errors import UsageError
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


def validate_tasks(
    task_space: spaces.Dict, tasks: Mapping[str, npt.ArrayLike], number: int | None
) -> Tasks:
    """`tasks` as arrays, checked against the space: [number, ...], or one task if None.

    Raises:
        UsageError: a parameter is missing, unknown, of another shape or outside its range; the
            message names the first one, with its value and range.

    """
    if set(tasks) != set(task_space):
        raise UsageError(
            f"task has parameters {sorted(tasks)}, but its space has {sorted(task_space)}"
        )
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
    """The task that assignments such as `velocity=1.5` and `goal=0.3,-0.2` describe.

    Parameters that are not assigned have their values in `rest`.

    Raises:
        UsageError: an assignment is malformed, or names an unknown parameter or a value outside
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


def uniform_task(task_space: spaces.Dict, generator: np.random.Generator, split: str) -> Task:
    """Draws a task uniformly from the space; a fifth of more than two finite tasks is held out."""
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
