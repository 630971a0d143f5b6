"""Options: their ranges, how a command line gives them, and errors on one line."""

import contextlib
import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from metarl.support.errors import UsageError, nearest


@dataclass(frozen=True)
class Range:
    """The numbers that an option may have: declared beside it, checked by `check_ranges`."""

    low: float
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is excluded."""

    def holds(self, value: float) -> bool:
        """Whether the value is finite and within the range."""
        enough = value > self.low if self.above else value >= self.low
        return math.isfinite(value) and enough and value <= self.high

    def __str__(self) -> str:
        low = f"a number {'above' if self.above else 'of at least'} {self.low:g}"
        return low if self.high == math.inf else f"{low} and at most {self.high:g}"


Count = Annotated[int, Range(1)]
WholeNumber = Annotated[int, Range(0)]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1, above=True)]
"""A number above 0 and at most 1."""
Probability = Annotated[float, Range(0, 1)]


def check_ranges(options: object) -> None:
    """Checks the fields of a dataclass whose type has a `Range` or a set of choices.

    Raises:
        UsageError: names the option, its value and what would be right.

    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = get_args(hint)
            listed = ", ".join(map(str, choices))
            raise UsageError(
                f"{option(name)} {value} must be one of {listed}{nearest(str(value), choices)}"
            )
        for part in (hint, *get_args(hint)):  # the alternatives of `Count | None` too
            for limits in getattr(part, "__metadata__", ()):
                if isinstance(limits, Range) and value is not None and not limits.holds(value):
                    raise UsageError(f"{option(name)} {value} must be {limits}")


def option(name: str) -> str:
    """A field's name on the command line."""
    return "--" + name.replace("_", "-")


T = TypeVar("T")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """In the block a `UsageError` is one line on standard error and an exit with status 2.

    Whoever reads the output may stop before its end, as `head` does: that is an end without words.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(1) from None
    except UsageError as error:
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
    given: dict[str, Any] = {} if default is None else {"default": default}
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


def at_least(name: str, value: int, lowest: int) -> None:
    """Checks the option `name`.

    Raises:
        UsageError: it is less than `lowest`.

    """
    if value < lowest:
        raise UsageError(f"{name} {value} must be at least {lowest}")
