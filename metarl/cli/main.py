"""The `metarl` command: finds the file of a subcommand, which is imported when it is called."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from metarl.cli.command_line import one_line_errors
from metarl.support.errors import UsageError, nearest

HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Command:
    """A subcommand: its file in `metarl.cli`, and what --help says of it."""

    module: str
    arguments: str
    summary: str
    has_options: bool = True
    """Whether its own --help lists options; else that is its line in the list."""


COMMANDS = {
    "train": Command("train", "--family FAMILY", "train a policy that adapts, in a run folder"),
    "evaluate": Command("evaluate", "RUN", "returns on held-out tasks after each inner step"),
    "adapt": Command("adapt", "RUN", "adapt the policy to one task and export it"),
    "compare": Command(
        "compare",
        "--family FAMILY",
        "compare algorithms and controls at equal environment steps",
    ),
    "plot": Command("plot", "RUN ...", "draw figures of runs, and write their numbers"),
    "families": Command("families", "[MODULE ...]", "list the task families", False),
    "algorithms": Command("algorithms", "", "list the named algorithms with their papers", False),
    "show": Command("show", "FAMILY", "draw a clip of a family under random actions"),
    "check": Command("check", "FAMILY ...", "check what training relies on in a family", False),
    "new-family": Command(
        "new_family",
        "NAME [--mujoco]",
        "write a starter family and its test; with --mujoco on a MuJoCo model",
        False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ("--help",)
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
        command = COMMANDS[name]
        if not command.has_options and HELP & set(rest):
            print(f"metarl {_usage(name)}")
            return
        importlib.import_module(f"metarl.cli.{command.module}").run(rest)


def _usage(name: str) -> str:
    command = COMMANDS[name]
    return f"{f'{name} {command.arguments}':26s} {command.summary}"
