"""Where in a user's code an error arose."""

import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

from metarl.support.text import one_line

METARL = str(Path(__file__).parents[1])
"""Folder of metarl."""
INSTALLED = (METARL, *sysconfig.get_paths().values(), "<frozen ")
"""What files of metarl, of Python and of installed packages begin with."""
GENERATED = "<string>", "__init__"
"""File and name of what `dataclasses` generates."""
DUMPED = re.compile(r'File "(.+)", line (\d+) in (.+)')
"""A line of what `faulthandler` writes."""


def place_of(error: BaseException) -> str:
    """FILE:LINE at which the error arose: the innermost line outside metarl, Python and installed
    packages, or the innermost line if there is no such line.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "another process"
    own = list(filter(_is_own, frames))
    place = (own or frames)[-1]
    return f"{place.filename}:{place.lineno}"


def _is_own(frame: traceback.FrameSummary) -> bool:
    """Whether a line is the user's, who may also type it into Python: `<stdin>`."""
    generated = (frame.filename, frame.name) == GENERATED
    return not generated and not frame.filename.startswith(INSTALLED)


def place_in_called_code(error: BaseException) -> str | None:
    """FILE:LINE, in FUNCTION, of the user's code that metarl called and in which the error arose.

    None if there is no such code, as for an error of metarl itself in a user's script.
    """
    frames = traceback.extract_tb(error.__traceback__)
    called = [i for i, frame in enumerate(frames) if frame.filename.startswith(METARL)]
    inner = frames[called[0] :] if called else []
    own = list(filter(_is_own, inner))
    return f"{own[-1].filename}:{own[-1].lineno}, in {own[-1].name}" if own else None


def place_in_stack(frames: Sequence[traceback.FrameSummary]) -> str:
    """FILE:LINE, in FUNCTION, of the innermost line of the user's code in a stack."""
    own = list(filter(_is_own, frames))
    place = (own or list(frames))[-1]
    return f"{place.filename}:{place.lineno}, in {place.name}"


def place_in_dump(text: str) -> str | None:
    """The same for what `faulthandler` wrote, the innermost call first; None if it is nothing."""
    found = [traceback.FrameSummary(f, int(n), name) for f, n, name in DUMPED.findall(text)]
    return place_in_stack(found[::-1]) if found else None


def described(error: BaseException) -> str:
    """The error on one line, with its place; it may be of any kind, also one without a text."""
    return f"{text_of(error)} ({place_in_called_code(error) or place_of(error)})"


def text_of(error: BaseException) -> str:
    """The kind of an error and its text, on one line."""
    try:
        text = str(error)
    except BaseException as other:
        text = f"its text cannot be read ({type(other).__name__})"
    name = type(error).__name__
    return one_line(f"{name}: {text}" if text else name)
