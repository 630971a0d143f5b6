"""`metarl families`: lists the task families."""

import sys
from collections.abc import Sequence

import gymnasium
import numpy as np
from rich.console import Console
from rich.table import Table

from metarl.simulation.backends import backend_name
from metarl.support.errors import UsageError
from metarl.support.types import Space
from metarl.tasks.distributions import Ball, Choice, Distribution, Uniform
from metarl.tasks.family import TaskFamily
from metarl.tasks.registry import registered_families
from metarl.tasks.task import finite_sizes, first_value

WIDE = 120
"""Smallest width of the table, in columns."""
LISTED = 5
"""Values of a finite set that are listed at most."""


def run(modules: Sequence[str]) -> None:
    """Lists the registered families, including those of `modules`.

    One that cannot be made has its error below the list, and makes the exit status 2.
    """
    table = Table("family", "task", "horizon", "splits", "steps by", "source", box=None)
    errors = []
    for name in registered_families(modules):
        try:
            table.add_row(name, *_row(name))
        except UsageError as error:
            table.add_row(name, "error, see below")
            errors.append(str(error))
    Console(width=max(Console().width, WIDE), markup=False).print(table)
    print("--family takes MODULE:ID, or ID if metarl or an installed package announces the family")
    if errors:
        sys.stdout.flush()
        for text in errors:
            print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2)


def _row(name: str) -> tuple[str, ...]:
    """The line of a family, without its name."""
    horizon = gymnasium.spec(name).max_episode_steps
    family = TaskFamily(name, horizon or 1)
    distributions = family.distribution.parameters
    parameters = "\n".join(
        f"{key} {_range(space, distributions.get(key))}" for key, space in family.task_space.items()
    )
    splits, backend = " ".join(family.splits), backend_name(family)
    source = family.declaration.source if family.declaration else ""
    return parameters, str(horizon or "-"), splits, backend, source


def _range(space: Space, distribution: Distribution | None) -> str:
    """A parameter's range, shape and unit, and the training range if that is narrower."""
    shape = "×".join(map(str, space.shape or ()))
    if (sizes := finite_sizes(space)) is not None:
        first = first_value(space)
        text = f"{np.min(first)} to {np.max(first + sizes - 1)}"
        return f"{text} × {shape}" if shape else text
    assert isinstance(space, gymnasium.spaces.Box)  # a task space has no other parameters
    if isinstance(distribution, Choice):
        return f"{_set(distribution)} {distribution.unit}".rstrip()
    text = f"[{space.low.min():.3g}, {space.high.max():.3g}]{f' × {shape}' if shape else ''}"
    text += f" {unit}" if (unit := getattr(distribution, "unit", "")) else ""
    if isinstance(distribution, Ball) and distribution.beyond is not None:
        return f"{text}, trained within {distribution.radius:.3g}"
    if isinstance(distribution, Uniform) and distribution.beyond is not None:
        return f"{text}, trained in [{distribution.low:.3g}, {distribution.high:.3g}]"
    return text


def _set(distribution: Choice) -> str:
    """The values of a finite set, or the first ones and the last."""
    texts = [
        f"({', '.join(f'{x:.3g}' for x in value)})" if isinstance(value, tuple) else f"{value:.3g}"
        for value in distribution.values
    ]
    shown = texts if len(texts) <= LISTED else [*texts[: LISTED - 2], "...", texts[-1]]
    return f"{{{', '.join(shown)}}}"
