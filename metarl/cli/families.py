"""`metarl families`."""

from collections.abc import Sequence
from typing import Any

import gymnasium
from rich.console import Console
from rich.table import Table

from metarl.simulation.backends import backend_name
from metarl.tasks.distributions import Ball
from metarl.tasks.family import import_family_module, make_family, registered_families

WIDE = 120
"""Columns of a table that is cut on a narrower terminal rather than torn."""


def run(modules: Sequence[str]) -> None:
    """Lists the registered families, those of `modules` included."""
    for module in modules:
        import_family_module(module)
    table = Table("family", "task", "horizon", "splits", "steps by", "source", box=None)
    for name in registered_families():
        family = make_family(name, gymnasium.spec(name).max_episode_steps or 1)
        distributions = family.distribution.parameters
        parameters = "\n".join(
            f"{key} {_range(space, distributions.get(key))}"
            for key, space in family.task_space.items()
        )
        splits, backend = " ".join(family.splits), backend_name(family)
        source = family.declaration.source if family.declaration else ""
        table.add_row(name, parameters, str(family.horizon), splits, backend, source)
    Console(width=max(Console().width, WIDE)).print(table)
    print(
        "--family takes one as MODULE:ID, or as ID if metarl or an installed package announces it"
    )


def _range(space: Any, distribution: Any) -> str:
    """A task parameter's range, shape and unit, and the range of training where that is less."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return f"{space.start} to {space.start + space.n - 1}"
    shape = "×".join(map(str, space.shape))
    text = f"[{space.low.min():.3g}, {space.high.max():.3g}]{f' × {shape}' if shape else ''}"
    text += f" {unit}" if (unit := getattr(distribution, "unit", "")) else ""
    if getattr(distribution, "beyond", None) is None:
        return text
    if isinstance(distribution, Ball):
        return f"{text}, trained within {distribution.radius:.3g}"
    return f"{text}, trained in [{distribution.low:.3g}, {distribution.high:.3g}]"
