"""The `metarl` command, which imports the file of a subcommand only to run it."""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from metarl.cli.command_line import LAUNCHED, one_line_errors
from metarl.support.errors import UsageError, nearest

HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Command:
    """A subcommand: its file in `metarl.cli`, and its line in --help."""

    module: str
    arguments: str
    summary: str
    has_options: bool = True
    """Whether it parses its own --help; otherwise --help prints its line of the list and this."""
    takes: str = ""


COMMANDS = {
    "train": Command(
        "train", "--family FAMILY", "train a policy that adapts, and record it in a run folder"
    ),
    "evaluate": Command(
        "evaluate", "RUN", "measure returns on held-out tasks after each inner step"
    ),
    "adapt": Command("adapt", "RUN", "adapt the policy to one task and export it"),
    "compare": Command(
        "compare",
        "--family FAMILY",
        "compare algorithms and controls at equal environment steps",
    ),
    "tune": Command(
        "tune",
        "--search OPTION=LOW:HIGH",
        "search for the options of train with which a learner adapts best",
    ),
    "plot": Command("plot", "RUN ...", "draw figures of runs, and write their numbers to a .csv"),
    "families": Command("families", "[MODULE ...]", "list the task families", False),
    "algorithms": Command("algorithms", "", "list the named algorithms with their papers", False),
    "show": Command("show", "FAMILY", "record a clip of a family under random actions"),
    "check": Command(
        "check",
        "FAMILY ...",
        "check that a family meets the requirements of training",
        False,
        """
FAMILY  MODULE:ID; the module is imported first, from the working folder too. ID alone is a family
        that metarl or an installed package announces.

There are no options. A table lists what was checked and found; a fault makes the exit status 1.""",
    ),
    "new-family": Command(
        "new_family",
        "NAME [--mujoco]",
        "write a new family and its test to start from; --mujoco: on a MuJoCo model",
        False,
        """
NAME      name of the class, as in PushToGoal: its files are push_to_goal.py and
          test_push_to_goal.py, in the working folder, and its id is PushToGoal-v0. Files that are
          there are not replaced.
--mujoco  write a family on a MuJoCo model, with the model in push_to_goal.xml

The test runs with pytest, which comes apart from metarl: pip install pytest.""",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ("--help",)
    with one_line_errors():
        if name in HELP:
            print(
                "usage: metarl COMMAND ...   (FAMILY is MODULE:ID; COMMAND --help lists options)\n"
            )
            print("\n".join(map(_usage, COMMANDS)))
            return
        if name not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise UsageError(
                f"metarl has no command {name}; the commands are {known}{nearest(name, COMMANDS)}"
            )
        if name != "train" and LAUNCHED in os.environ:
            raise UsageError(f"metarl {name} runs in one process: start it without torchrun")
        command = COMMANDS[name]
        if not command.has_options and HELP & set(rest):
            print("\n".join(filter(None, (f"metarl {_usage(name)}", command.takes))))
            return
        importlib.import_module(f"metarl.cli.{command.module}").run(rest)


def _usage(name: str) -> str:
    command = COMMANDS[name]
    return f"{f'{name} {command.arguments}':26s} {command.summary}"
