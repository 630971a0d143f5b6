"""The command line: `metarl train`, also that of experiment scripts, and the other commands."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from metarl.cli.families import (
    check_families,
    list_algorithms,
    list_families,
    new_family,
    show_family,
)
from metarl.cli.runs import adapt_run, compare_algorithms, evaluate_run, plot_runs
from metarl.learners.config import Config
from metarl.learners.maml import Learner
from metarl.learners.presets import find_algorithm
from metarl.runs.folder import CONFIG
from metarl.runs.run import read_options, train
from metarl.support.errors import UsageError, nearest
from metarl.support.options import one_line_errors, parse

HELP = {"-h", "--help"}


def run_experiment(
    default: Config | None = None,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
    command: str | None = None,
) -> Learner:
    """The main function of an experiment: options over `default`, then training.

    Exits with status 2 and one line where the command line is at fault; its usage names the
    `command` of metarl, or the script.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with one_line_errors():
        config = _parse(default, description, arguments, command)
        learner = train(config)
    folder = config.run_folder
    print(f"next: metarl evaluate {folder}, metarl adapt {folder}, tensorboard --logdir {folder}")
    return learner


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], object], str, str]] = {
    "train": (
        lambda rest: run_experiment(None, Config.__doc__, rest, "train"),
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
    name, *rest = arguments or ("--help",)
    with one_line_errors():
        if name in HELP:
            print("usage: metarl COMMAND ...; its --help has its options, FAMILY is MODULE:ID\n")
            print("\n".join(map(_usage, COMMANDS)))
            return
        if name not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise UsageError(
                f"metarl has no command {name}; it has {known}{nearest(name, COMMANDS)}"
            )
        if name in WITHOUT_OPTIONS and HELP & set(rest):
            print(f"metarl {_usage(name)}")
            return
        COMMANDS[name][0](rest)


def _usage(name: str) -> str:
    _, arguments, summary = COMMANDS[name]
    return f"{f'{name} {arguments}':26s} {summary}"


def _parse(
    default: Config | None, description: str | None, arguments: Sequence[str], command: str | None
) -> Config:
    preset = _preset(arguments)
    resumed = _resumed(arguments)
    default = resumed or dataclasses.replace(default or Config(family=tyro.MISSING), **preset)
    return parse(Config, arguments, description, default, command)


def _resumed(arguments: Sequence[str]) -> Config | None:
    """The options of the run that is to go on, if `--run-dir` names its folder."""
    pairs = [argument.partition("=") for argument in arguments]
    for i, (option, _, value) in enumerate(pairs):
        if option == "--run-dir" and "--resume" in arguments:
            folder = Path(value or " ".join(arguments[i + 1 : i + 2]))
            if (folder / CONFIG).exists():
                return Config.from_json(read_options(folder) | {"run_dir": str(folder)})
    return None


def _preset(arguments: Sequence[str]) -> dict[str, Any]:
    """What the algorithm named among the arguments puts in the place of the defaults."""
    for i, argument in enumerate(arguments):
        option, _, name = argument.partition("=")
        if option == "--algorithm":
            name = name or " ".join(arguments[i + 1 : i + 2])
            return {"algorithm": name, **find_algorithm(name).options}
    return {}
