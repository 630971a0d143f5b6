"""Commands on task families, and the lists of what there is."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from metarl.learners.presets import ALGORITHMS, CONTROLS, RL2
from metarl.runs.clips import check_clip_name, prefer_offscreen, record_clip, write_clip
from metarl.simulation.checker import check_family
from metarl.simulation.gymnasium import backend_name
from metarl.support.errors import UsageError
from metarl.support.options import parse
from metarl.support.randomness import RandomKey
from metarl.tasks.distributions import Ball
from metarl.tasks.family import import_family_module, make_family, registered_families
from metarl.tasks.starter import write_family
from metarl.tasks.task import parse_task, select_tasks

WIDE = 120
"""Columns of a table that is cut on a narrower terminal rather than torn."""


def list_families(modules: Sequence[str]) -> None:
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


def list_algorithms(_: Sequence[str]) -> None:
    """Lists the named algorithms."""
    table = Table("algorithm", "what it is", "source", box=None)
    for name, algorithm in (ALGORITHMS | CONTROLS).items():
        table.add_row(name, algorithm.summary, algorithm.source)
    table.add_row(
        RL2, "a recurrent policy, of metarl compare", "Duan et al. 2016, arXiv 1611.02779"
    )
    Console().print(table)


def check_families(names: Sequence[str]) -> None:
    """Checks families, each in a table; exits with status 1 if one has a fault."""
    if not names:
        raise UsageError("metarl check FAMILY ...: name a family, as in envs:Navigation2D-v0")
    faults = 0
    for name in names:
        table = Table("", "check", "found", box=None, title=name, title_justify="left")
        for finding in check_family(make_family(name)):
            detail = finding.detail + (f"\n→ {finding.hint}" if finding.hint else "")
            outcome = "caution" if finding.caution else "ok" if finding.passed else "FAULT"
            table.add_row(outcome, finding.name, detail)
            faults += not finding.passed
        Console().print(table)
    if faults:
        print(f"{faults} fault{'s' if faults > 1 else ''} found", file=sys.stderr)
        raise SystemExit(1)


def new_family(arguments: Sequence[str]) -> None:
    """Writes starter files and their test into the working folder."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    for option in arguments:
        if option.startswith("-") and option != "--mujoco":
            raise UsageError(f"metarl new-family has no option {option}; it has --mujoco")
    if len(names) != 1:
        raise UsageError("metarl new-family NAME [--mujoco]: give one name, as in PushToGoal")
    *files, test = write_family(names[0], Path(), mujoco="--mujoco" in arguments)
    family = f"{files[0].stem}:{names[0]}-v0"
    print(f"wrote {', '.join(map(str, files))} and {test}; next, make them yours, and")
    print(f"  metarl check {family}")
    print(f"  metarl train --family {family}")


@dataclass(frozen=True)
class Show:
    """A short clip of a family under random actions, for a look."""

    family: tyro.conf.Positional[str]
    """Task family, MODULE:ID."""
    task: tuple[str, ...] = ()
    """Parameters of the task, as in velocity=1.5 or goal=0.3,-0.2; others are drawn."""
    out: Path | None = None
    """A moving .gif, or a strip of frames as .png; <family>.gif if not given."""
    steps: int = 100
    """Steps of the clip, if the episode lasts."""
    seed: int = 0
    """Names the random numbers."""


def show_family(arguments: Sequence[str]) -> None:
    """Writes a clip."""
    options = parse(Show, arguments, Show.__doc__, command="show")
    prefer_offscreen()
    family = make_family(options.family)
    drawn = select_tasks(family.sample_tasks(1, RandomKey(options.seed)), 0)
    task = parse_task(family.task_space, options.task, drawn)
    path = options.out or Path(f"{options.family.rpartition(':')[2]}.gif")
    check_clip_name(path)
    frames = record_clip(family, task, options.steps, options.seed)
    write_clip(frames, path)
    shown = ", ".join(f"{name} {np.round(value, 3).tolist()}" for name, value in task.items())
    print(f"wrote {len(frames)} frames to {path}: {family.id}, {shown}")
