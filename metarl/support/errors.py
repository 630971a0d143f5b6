"""The exceptions of the library."""

import difflib
import inspect
import re
import reprlib
from collections.abc import Callable, Iterable

from metarl.support.text import one_line


class UsageError(Exception):
    """A mistake of the user, with a message of one line: what is wrong, where, and what is right.

    The command line prints the message and exits with status 2.
    """

    def __init__(self, message: str):
        """Cuts long values in the message, which may come from a file."""
        super().__init__(one_line(message))


class InUseError(UsageError):
    """Another process, perhaps on another machine, is using the run folder."""


class ScriptError(UsageError):
    """The main script cannot be run again by the processes that it starts."""


class NonFiniteError(UsageError):
    """A number is infinite or NaN: the message says which one, and where it arose."""

    def __init__(self, message: str, tasks: Iterable[int] = (), remedy: str = ""):
        """Names the number.

        Args:
            message: says what it is.
            tasks: indices of the tasks that have such a number; none if it is of no single task.
            remedy: what to try, if it is not what the learner suggests.

        """
        super().__init__(message)
        self.tasks = tuple(tasks)
        self.remedy = remedy


class FamilyError(Exception):
    """The code of a task family failed, or returned what does not fit: the message says where.

    The command line prints the message and exits with status 1.
    """


class WorkerError(FamilyError):
    """A worker process ended or gave no answer: the message has the environment and its task."""


class UnfitError(Exception):
    """A value that foreign code returned is none that it may return."""


class RankError(Exception):
    """Another process of torchrun has ended, or did not answer in time."""


def expect_instance(value: object, kind: type, wanted: str, hint: str = "") -> None:
    """Checks an argument of a call from Python.

    Raises:
        UsageError: it is of another type; the message begins with `wanted`, and ends with the hint.

    """
    if not isinstance(value, kind):
        raise UsageError(f"{wanted}, not {reprlib.repr(value)}{hint}")


def expect_list(values: object, name: str) -> None:
    """Checks an argument that is several values: a text would be taken for its letters.

    Raises:
        UsageError: it is a text, or nothing that has elements.

    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"{name} is {reprlib.repr(values)}, not a list")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether metarl's own computation needs more memory than there is."""
    if isinstance(error, FamilyError | UsageError):
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of a GPU
        return True
    return type(error) is RuntimeError and "DefaultCPUAllocator" in str(error)


def hint_of_call(error: BaseException, called: Callable[..., object]) -> str:
    """What `called` takes, if the error is that it was given a name that it does not take."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not found:
        return ""
    known = [name for name in inspect.signature(called).parameters if name != "self"]
    return nearest(found[1], known) or f"; it takes {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint `; did you mean NAME?` with the most similar known name; empty if none is."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
