"""The exceptions of the library."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A request that cannot be met; its message is one line: what, where, what would be right.

    The command line prints the message and exits with status 2.
    """


class NonFiniteError(UsageError):
    """Training has diverged: a parameter is infinite or not a number; says which, and where."""


class WorkerError(Exception):
    """A worker process failed: which, at which environment and task, and its own traceback."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A question whether the nearest of the known names was meant; empty if none is near."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
