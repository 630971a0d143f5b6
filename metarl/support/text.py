"""Words in messages, and the text of JSON files."""

import json
import math
from collections.abc import Mapping

WORD, MESSAGE = 160, 600
"""Characters of a word and of a message from which on only their ends are shown."""


def one_line(text: str) -> str:
    """The text for a terminal: on one line, not too long, and without characters that act."""
    words = " ".join(_ends(word, WORD) for word in text.split())
    return _ends("".join(c if c.isprintable() else ascii(c)[1:-1] for c in words), MESSAGE)


def _ends(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[: longest * 2 // 3]}...{text[-longest // 4 :]}"


def counted(number: int, noun: str) -> str:
    """The number and its noun: `1 task`, `2 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def described_units(units: Mapping[str, str]) -> str:
    """Names and their units: `velocity in m/s, mass in kg`."""
    return ", ".join(f"{name} in {unit}" for name, unit in units.items())


def json_text(data: object, indent: int | None = None) -> str:
    """The data as JSON, which has null in the place of a number that does not exist."""
    return json.dumps(_with_null(data), indent=indent, allow_nan=False)


def _with_null(data: object) -> object:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _with_null(value) for key, value in data.items()}
    return [_with_null(value) for value in data] if isinstance(data, list | tuple) else data
