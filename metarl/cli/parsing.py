"""Parsing of a command line into a dataclass of options."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_origin, get_type_hints

import tyro

from metarl.cli.help import grouped
from metarl.learners.config import RunConfig
from metarl.support.errors import UsageError, nearest
from metarl.support.options import option

T = TypeVar("T")

COMMAS = re.compile(r"[\w.-]+(,[\w.-]+)+")
"""A word that lists values as some other programs do."""

UNKNOWN, MEANT = "Unrecognized options", "Perhaps you meant"
"""How tyro begins to tell of options that there are not, and of those that are like them."""
PLAIN = {
    "Error parsing ": "",
    "Could not find valid parse for arguments:": "cannot read",
    "Failed to parse key-value pairs!": "needs names and values in turn",
    "Argument helptext:": "expected:",
}
"""Phrases of tyro, and what they mean."""


class _Text(io.StringIO):
    """What is printed; tyro draws boxes if the encoding has the characters for them."""

    encoding = sys.stdout.encoding


def parse(
    options: type[T],
    arguments: Sequence[str],
    description: str | None,
    default: T | None = None,
    command: str | None = None,
) -> T:
    """Parses a command line with tyro; the usage names `command`, a subcommand of metarl.

    Raises:
        UsageError: the command line is wrong; the message is tyro's on one line.

    """
    output = _Text()
    arguments = joined_pairs(options, arguments)
    default, kept = _without_pairs(default, arguments)
    try:
        with _errors_of_tyro(arguments, options), contextlib.redirect_stdout(output):
            parsed: T = tyro.cli(
                options,
                prog=None if command is None else f"metarl {command}",
                description=description,
                args=arguments,
                default=tyro.MISSING_NONPROP if default is None else default,
            )
    except SystemExit:  # after --help
        text = output.getvalue()
        print(grouped(text, options) if issubclass(options, RunConfig) else text, end="")
        raise
    merged = {name: pairs | getattr(parsed, name) for name, pairs in kept.items()}
    return dataclasses.replace(parsed, **merged) if merged else parsed  # type: ignore[type-var]


def words_of_options(arguments: Sequence[str]) -> list[list[str]]:
    """The command line in parts, each of which begins with an option, as `--option=` or alone."""
    parts: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not parts:
            parts.append([])
        parts[-1].append(word)
    return parts


def name_of(word: str) -> str:
    """The option that a word of the command line gives, in the form of the field: inner_lr."""
    return word.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")


def names_in(arguments: Sequence[str]) -> set[str]:
    """The options that a command line gives, in the form of their fields."""
    return {name_of(word) for word in arguments if word.startswith("--")}


def joined_pairs(options: type, arguments: Sequence[str]) -> list[str]:
    """The command line with all pairs of an option at its first place, later values of a name last.

    Tyro takes the last of several `--family-options` alone.
    """
    fields = get_type_hints(options)
    words: dict[str | int, list[str]] = {}
    for number, part in enumerate(words_of_options(arguments)):
        name = name_of(part[0])
        if get_origin(fields.get(name)) is not dict:
            words[number] = part
            continue
        _, equals, value = part[0].partition("=")
        words.setdefault(name, [option(name)]).extend(([value] if equals else []) + part[1:])
    return [word for part in words.values() for word in part]


def without_repeats(options: type, arguments: Sequence[str]) -> list[str]:
    """The command line with the last of each option alone, which is the one that counts."""
    parts = words_of_options(joined_pairs(options, arguments))
    return [word for part in {name_of(part[0]): part for part in parts}.values() for word in part]


def _without_pairs(
    default: T | None, arguments: Sequence[str]
) -> tuple[T | None, dict[str, dict[str, Any]]]:
    """The default without the pairs of options that are given as pairs, and these pairs.

    Tyro takes a default with pairs for one that has all names there are.
    """
    if not dataclasses.is_dataclass(default):
        return default, {}
    given = names_in(arguments)
    values = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    kept = {n: x for n, x in values.items() if isinstance(x, dict) and x and n in given}
    if kept:
        default = dataclasses.replace(default, **{name: {} for name in kept})  # type: ignore[type-var]
    return default, kept


def parse_known(
    options: type[T], arguments: Sequence[str], description: str | None, command: str
) -> tuple[T, list[str]]:
    """Parses `options` as `parse` does; returns all other arguments as they are.

    Raises:
        UsageError: the command line is wrong; the message is tyro's on one line.

    """
    arguments = joined_pairs(options, arguments)
    with _errors_of_tyro(arguments):
        parsed, others = tyro.cli(
            options,
            prog=f"metarl {command}",
            description=description,
            args=arguments,
            return_unknown_args=True,
        )
    return parsed, others


@contextlib.contextmanager
def _errors_of_tyro(arguments: Sequence[str], options: type | None = None) -> Iterator[None]:
    """In the block, tyro's exit after a mistake is a `UsageError`.

    It names the option that was perhaps meant for one that is none of `options`.
    """
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            yield
    except SystemExit as exit:
        if exit.code:
            listed = next(filter(COMMAS.fullmatch, arguments), None)
            hint = f"; values are divided by spaces: {listed.replace(',', ' ')}" if listed else ""
            text = _unboxed(output.getvalue()) + hint
            if options is not None and UNKNOWN in text and MEANT not in text:
                text += _meant(options, arguments)
            raise UsageError(text) from None
        raise


def _meant(options: type, arguments: Sequence[str]) -> str:
    """The hint `; did you mean --OPTION?` for the first option that is unknown and like another."""
    known = get_type_hints(options)
    unknown = sorted(names_in(arguments) - set(known))
    hints = (nearest(option(name), map(option, known)) for name in unknown)
    return next(filter(None, hints), "")


def peek(options: type[T], arguments: Sequence[str]) -> T:
    """Parses only `options` and ignores all others on the command line.

    If the parser finds a mistake, the defaults are returned; parsing all options then reports it.
    """
    arguments = joined_pairs(options, arguments)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            known, _ = tyro.cli(options, args=arguments, return_unknown_args=True, add_help=False)
    except SystemExit:
        return options()
    return known


def _unboxed(text: str) -> str:
    """Tyro's boxed message on one line: what is wrong, and which option was perhaps meant."""
    lines = [line.strip("│╭╰╮╯ ") for line in text.splitlines()]
    message: list[str] = []
    for line in lines[1:-1]:
        if set(line) <= {"─", "-"}:
            if any(part.startswith(MEANT) for part in message):
                break
            message.append(";")
        elif line.startswith("For full helptext"):
            break
        else:
            message.append(line)
    text = " ".join(message).replace(" ;", ";").strip("; ")
    for theirs, ours in PLAIN.items():
        text = text.replace(theirs, ours)
    return text
