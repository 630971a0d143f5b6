"""The command line: `metarl train`, also that of experiment scripts, and lists of what there is."""

import contextlib
import dataclasses
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from metarl.algorithms import ALGORITHMS, find_algorithm
from metarl.check import check_family
from metarl.config import Config
from metarl.distributions import TaskDistribution
from metarl.errors import UsageError
from metarl.evaluation import Evaluation
from metarl.new_family import write_family
from metarl.randomness import RandomKey
from metarl.show import check_clip_name, prefer_offscreen, record_clip, write_clip
from metarl.simulation.gymnasium import backend_name
from metarl.tasks import (
    import_family_module,
    make_family,
    parse_task,
    registered_families,
    select_tasks,
)
from metarl.training import train

T = TypeVar("T")

HELP = {
    "families": "metarl families [MODULE ...]: lists task families, those of the modules included",
    "algorithms": "metarl algorithms: lists the named algorithms with their papers",
    "check": "metarl check FAMILY ...: whether a family, MODULE:ID, keeps what training relies on",
    "new-family": "metarl new-family NAME: writes a starter family and its test into this folder; "
    "experiments/own_families has examples of the other kinds",
}
"""Of the commands without options."""

WIDE = 120
"""Columns of a table that is cut on a narrower terminal rather than torn."""


def run_experiment(
    default: Config | None = None,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """The main function of an experiment: options over `default`, then training.

    Exits with status 2 and one line where the command line is at fault.
    """
    with one_line_errors():
        config = _parse(default, description, sys.argv[1:] if arguments is None else arguments)
        train(config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "train": lambda rest: run_experiment(arguments=rest, description=Config.__doc__),
        "families": _families,
        "algorithms": _algorithms,
        "check": _check,
        "new-family": _new_family,
        "show": _show,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: metarl train --help | families [MODULE ...] | algorithms | check FAMILY ... | "
            "new-family NAME | show --help"
        )
        return
    if arguments[0] in HELP and set(arguments[1:]) & {"-h", "--help"}:
        print(HELP[arguments[0]])
        return
    with one_line_errors():
        if arguments[0] not in commands:
            raise UsageError(f"metarl has no command {arguments[0]}; it has {', '.join(commands)}")
        commands[arguments[0]](arguments[1:])


def _parse(default: Config | None, description: str | None, arguments: Sequence[str]) -> Config:
    preset = _preset(arguments)
    default = dataclasses.replace(default or Config(family=tyro.MISSING), **preset)
    return _cli(Config, arguments, description, default)


def _cli(
    options: type[T], arguments: Sequence[str], description: str | None, default: T | None = None
) -> T:
    """What tyro parses; its message on one line where the command line is at fault."""
    output = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(output):
            parsed: T = tyro.cli(options, description=description, args=arguments, **given)
    except SystemExit as exit:
        if exit.code:
            raise UsageError(_unboxed(output.getvalue())) from None
        raise
    return parsed


def _preset(arguments: Sequence[str]) -> dict[str, Any]:
    """What the algorithm named among the arguments puts in the place of the defaults."""
    for i, argument in enumerate(arguments):
        option, _, name = argument.partition("=")
        if option == "--algorithm":
            name = name or " ".join(arguments[i + 1 : i + 2])
            return {"algorithm": name, **find_algorithm(name).options}
    return {}


def _unboxed(text: str) -> str:
    """Tyro's boxed message as one line: what is wrong, and the option that was perhaps meant."""
    lines = [line.strip("│╭╰╮╯ ") for line in text.splitlines()]
    message: list[str] = []
    for line in lines[1:-1]:
        if set(line) == {"─"}:
            if any(part.startswith("Perhaps you meant") for part in message):
                break
            message.append(";")
        elif line.startswith(("For full helptext", "Argument helptext")):
            break
        else:
            message.append(line)
    return " ".join(message).replace(" ;", ";").strip("; ")


def _families(modules: Sequence[str]) -> None:
    """Lists the registered families, those of `modules` included."""
    for module in modules:
        import_family_module(module)
    table = Table("family", "task", "horizon", "splits", "steps by", "source", box=None)
    for name in registered_families():
        family = make_family(name, gymnasium.spec(name).max_episode_steps or 1)
        base: Any = family.prototype.unwrapped
        declaration = getattr(base, "family", None)
        distribution = getattr(declaration or base, "tasks", TaskDistribution())
        units = {key: getattr(d, "unit", "") for key, d in distribution.parameters.items()}
        parameters = "\n".join(
            f"{key} {_range(space)} {units.get(key, '')}".rstrip()
            for key, space in family.task_space.items()
        )
        splits, backend = " ".join(family.splits), backend_name(family)
        source = declaration.source if declaration else ""
        table.add_row(name, parameters, str(family.horizon), splits, backend, source)
    Console(width=max(Console().width, WIDE)).print(table)


def _range(space: Any) -> str:
    """A task parameter's range and shape, briefly."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return f"{space.start} to {space.start + space.n - 1}"
    shape = "×".join(map(str, space.shape))
    return f"[{space.low.min():.3g}, {space.high.max():.3g}]{f' × {shape}' if shape else ''}"


def _algorithms(_: Sequence[str]) -> None:
    """Lists the named algorithms."""
    table = Table("algorithm", "what it is", "source", box=None)
    for name, algorithm in ALGORITHMS.items():
        table.add_row(name, algorithm.summary, algorithm.source)
    Console().print(table)


def _check(names: Sequence[str]) -> None:
    """Checks families, each in a table; exits with status 1 if one has a fault."""
    if not names:
        raise UsageError("metarl check FAMILY ...: name a family, as in envs:Navigation2D-v0")
    faults = 0
    for name in names:
        table = Table("", "check", "found", box=None, title=name, title_justify="left")
        for finding in check_family(make_family(name)):
            detail = finding.detail + (f"\n→ {finding.hint}" if finding.hint else "")
            table.add_row("ok" if finding.passed else "FAULT", finding.name, detail)
            faults += not finding.passed
        Console().print(table)
    if faults:
        print(f"{faults} fault{'s' if faults > 1 else ''} found", file=sys.stderr)
        raise SystemExit(1)


def _new_family(names: Sequence[str]) -> None:
    """Writes a starter file and its test into the working folder."""
    if len(names) != 1:
        raise UsageError("metarl new-family NAME: give one name, as in PushToGoal")
    family, test = write_family(names[0], Path())
    print(f"wrote {family} and {test}; next:")
    print(f"  metarl check {family.stem}:{names[0]}-v0")
    print(f"  metarl train --family {family.stem}:{names[0]}-v0")


@dataclass(frozen=True)
class _Show:
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


def _show(arguments: Sequence[str]) -> None:
    """Writes a clip."""
    options = _cli(_Show, arguments, _Show.__doc__)
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


def print_evaluation(evaluation: Evaluation, title: str = "") -> None:
    """A table of means and intervals after each inner step, for each group of tasks."""
    metrics = evaluation.metrics()
    names = [name.removesuffix("/step_0/mean") for name in metrics if name.endswith("step_0/mean")]
    table = Table("step", *names, box=None, title=title, title_justify="left")
    digits = 3 if np.abs(evaluation.returns.mean(1)).max() < 10 else 1
    for k in range(len(evaluation.returns)):
        rows = [[metrics[f"{n}/step_{k}/{x}"] for x in ("mean", "low", "high")] for n in names]
        cells = ([f"{x:.{digits}f}" for x in row] for row in rows)
        table.add_row(str(k), *(f"{mean} [{low}, {high}]" for mean, low, high in cells))
    Console().print(table)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """In the block a `UsageError` is one line on standard error and an exit with status 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        yield
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
