"""Where in a user's code an error arose."""

import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

METARL = str(Path(__file__).parents[1])
"""Folder of metarl."""
INSTALLED = (METARL, *sysconfig.get_paths().values())
"""Folders of metarl, Python and installed packages."""
FRAME = re.compile(r'File "(.+)", line (\d+), in (.+)')
"""A line of a traceback."""


def place_of(error: BaseException) -> str:
    """FILE:LINE at which the error arose: the innermost line outside metarl, Python and installed
    packages, or the innermost line if there is no such line.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "another process"
    own = [frame for frame in frames if not frame.filename.startswith(INSTALLED)]
    place = (own or frames)[-1]
    return f"{place.filename}:{place.lineno}"


def place_in_called_code(error: BaseException) -> str | None:
    """FILE:LINE, in FUNCTION, of the user's code that metarl called and in which the error arose.

    None if there is no such code, as for an error of metarl itself in a user's script.
    """
    frames = traceback.extract_tb(error.__traceback__)
    called = [i for i, frame in enumerate(frames) if frame.filename.startswith(METARL)]
    inner = frames[called[0] :] if called else []
    own = [frame for frame in inner if not frame.filename.startswith(INSTALLED)]
    return f"{own[-1].filename}:{own[-1].lineno}, in {own[-1].name}" if own else None


def place_in_trace(lines: Iterable[str]) -> str:
    """FILE:LINE, in FUNCTION, of the user's code in the lines of a traceback of another process."""
    places = [found.groups() for line in lines if (found := FRAME.search(line))]
    own = [place for place in places if not place[0].startswith(INSTALLED)]
    file, line, function = (own or places)[-1]
    return f"{file}:{line}, in {function}"
