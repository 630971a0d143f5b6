"""Parsing a command line, and errors on one line."""

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TypeVar

import tyro

from metarl.support.errors import UsageError
from metarl.support.types import Json

T = TypeVar("T")

DEBUG = "METARL_DEBUG"
"""Environment variable: 1 shows the traceback behind a one-line error."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Within the block a `UsageError` is one line on standard error and an exit with status 2.

    With METARL_DEBUG=1 in the environment its traceback comes first. A reader of the output may
    stop before its end, as `head` does; that exits silently.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(1) from None
    except UsageError as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse(
    options: type[T],
    arguments: Sequence[str],
    description: str | None,
    default: T | None = None,
    command: str | None = None,
) -> T:
    """What tyro parses; its message on one line where the command line is at fault.

    `command` of metarl is named in the usage.
    """
    output = io.StringIO()
    given: Json = {} if default is None else {"default": default}
    if command is not None:
        given["prog"] = f"metarl {command}"
    try:
        with contextlib.redirect_stderr(output):
            parsed: T = tyro.cli(options, description=description, args=arguments, **given)
    except SystemExit as exit:
        if exit.code:
            raise UsageError(_unboxed(output.getvalue())) from None
        raise
    return parsed


def peek(options: type[T], arguments: Sequence[str]) -> T:
    """The values that these options have among others on the command line, by the same parser.

    Their defaults where the parser finds a mistake: parsing all options will name it.
    """
    try:
        known, _ = tyro.cli(
            options, args=arguments, return_unknown_args=True, add_help=False, console_outputs=False
        )
    except SystemExit:
        return options()
    return known


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
