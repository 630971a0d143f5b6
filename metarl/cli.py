"""The command line: `metarl train`, also that of experiment scripts, and the other commands."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from metarl.algorithms import find_algorithm
from metarl.config import Config
from metarl.errors import UsageError
from metarl.family_commands import (
    check_families,
    list_algorithms,
    list_families,
    new_family,
    show_family,
)
from metarl.learner import Learner
from metarl.options import one_line_errors, parse
from metarl.run_commands import adapt_run, compare_algorithms, evaluate_run, plot_runs
from metarl.training import train

HELP = {"-h", "--help"}


def run_experiment(
    default: Config | None = None,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
) -> Learner:
    """The main function of an experiment: options over `default`, then training.

    Exits with status 2 and one line where the command line is at fault.
    """
    with one_line_errors():
        config = _parse(default, description, sys.argv[1:] if arguments is None else arguments)
        return train(config)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], object], str, str]] = {
    "train": (
        lambda rest: run_experiment(arguments=rest, description=Config.__doc__),
        "--family FAMILY",
        "trains a policy that adapts, into a run folder",
    ),
    "evaluate": (evaluate_run, "RUN", "returns on held-out tasks after each inner step"),
    "adapt": (adapt_run, "RUN", "adapts the policy to one task and writes it, to be taken away"),
    "compare": (
        compare_algorithms,
        "--family FAMILY",
        "algorithms and controls at equal environment steps: one table, one figure",
    ),
    "plot": (plot_runs, "RUN ...", "figures of runs, and the numbers behind them"),
    "families": (list_families, "[MODULE ...]", "lists task families, the modules' included"),
    "algorithms": (list_algorithms, "", "lists the named algorithms with their papers"),
    "show": (show_family, "FAMILY", "a clip of a family under random actions"),
    "check": (check_families, "FAMILY ...", "whether a family keeps what training relies on"),
    "new-family": (
        new_family,
        "NAME [--mujoco]",
        "writes a starter family and its test here, with --mujoco one on a MuJoCo model",
    ),
}
"""What each does with the rest of the command line, its arguments, and what --help says of it."""

WITHOUT_OPTIONS = ("families", "algorithms", "check", "new-family")
"""Commands whose --help is their line here; that of the others lists their options."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in HELP:
        print("usage: metarl COMMAND ...; its --help has its options, FAMILY is MODULE:ID\n")
        for name in COMMANDS:
            print(_usage(name))
        return
    name, *rest = arguments
    with one_line_errors():
        if name not in COMMANDS:
            raise UsageError(f"metarl has no command {name}; it has {', '.join(COMMANDS)}")
        if name in WITHOUT_OPTIONS and HELP & set(rest):
            print(f"metarl {_usage(name)}")
            return
        COMMANDS[name][0](rest)


def _usage(name: str) -> str:
    _, arguments, summary = COMMANDS[name]
    return f"{f'{name} {arguments}':26s} {summary}"


def _parse(default: Config | None, description: str | None, arguments: Sequence[str]) -> Config:
    preset = _preset(arguments)
    default = dataclasses.replace(default or Config(family=tyro.MISSING), **preset)
    return parse(Config, arguments, description, default)


def _preset(arguments: Sequence[str]) -> dict[str, Any]:
    """What the algorithm named among the arguments puts in the place of the defaults."""
    for i, argument in enumerate(arguments):
        option, _, name = argument.partition("=")
        if option == "--algorithm":
            name = name or " ".join(arguments[i + 1 : i + 2])
            return {"algorithm": name, **find_algorithm(name).options}
    return {}
