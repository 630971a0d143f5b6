"""Calls of code that is not metarl's: whatever it does, the run ends with a message.

Its errors become a `FamilyError`, of whatever kind they are: `sys.exit(0)` in a step would end a
run with status 0. A call that does not return cannot be interrupted, as it may wait in C code: a
thread watches the calls, and ends the process.
"""

import os
import reprlib
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

from metarl.support.errors import FamilyError, UnfitError, UsageError
from metarl.support.places import described, place_in_stack
from metarl.support.schema import expect
from metarl.support.signals import is_request_to_end

LIMIT = 60.0
"""Seconds that a call may take, if no option says otherwise."""
START_LIMIT = 300.0
"""Seconds that making an environment may take: it may compile."""
POLL = 0.2
"""Seconds between two looks at the calls."""
DEBUGGERS = ("bdb.py", "pdb.py", "pydevd.py")
"""Files of debuggers, in which a person may wait."""


class Calling:
    """A block that calls foreign code.

    A process that a call has forked, and that returns from it, ends there.
    """

    def __init__(self, where: Callable[[], str], limit: float = LIMIT):
        """Calls to come.

        Args:
            where: says which code is called, and with what: the begin of a message.
            limit: seconds that each call may take.

        """
        self.where = where
        self.limit = limit
        self.thread = 0
        self.waited = 0.0
        self._process = 0

    def __enter__(self) -> Self:
        """Begins a call."""
        self._process, self.thread, self.waited = os.getpid(), threading.get_ident(), 0.0
        _watched[id(self)] = self
        _start_watching()
        return self

    def again(self) -> None:
        """Begins another call in the same block."""
        self.waited = 0.0
        self._expect_same_process()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the calls.

        Raises:
            FamilyError: one raised an error of any kind.

        """
        self._expect_same_process()
        _watched.pop(id(self), None)
        if error is None or isinstance(error, UsageError | FamilyError) or is_request_to_end(error):
            return
        if isinstance(error, UnfitError):
            raise FamilyError(f"{self.where()} {error}") from error
        raise FamilyError(f"{self.where()} failed: {described(error)}") from error

    def _expect_same_process(self) -> None:
        """Ends a process that a call has forked."""
        if os.getpid() != self._process:
            _end(f"{self.where()} called fork, and the new process came back: it ends here")


def expect_metrics(metrics: object, whose: str) -> None:
    """Checks the metrics that foreign code returned: numbers by their names.

    Raises:
        UsageError: they are anything else; the message begins with `whose`, the method.

    """
    if not isinstance(metrics, dict):
        raise UsageError(f"{whose} must return its metrics as a dict, not {reprlib.repr(metrics)}")
    try:
        expect(metrics, dict[str, float], "metrics")
    except ValueError as error:
        raise UsageError(f"{whose}: {error}") from None


_watched: dict[int, Calling] = {}
"""The blocks that are running, of all threads."""
_watcher: list[threading.Thread] = []


def _start_watching() -> None:
    if not _watcher:
        _watcher.append(threading.Thread(target=_watch, name="metarl watchdog", daemon=True))
        _watcher[0].start()


def _watch() -> None:
    """Counts the time that this process runs, so that one that was stopped does not end."""
    while True:
        time.sleep(POLL)
        for call in list(_watched.values()):
            call.waited += POLL
            if call.waited > call.limit:
                stack = traceback.extract_stack(sys._current_frames().get(call.thread))
                if not any(frame.filename.endswith(DEBUGGERS) for frame in stack):
                    _end(
                        f"{call.where()} does not return: it took more than {call.limit:g} s "
                        f"({place_in_stack(stack)}); --worker-timeout is the limit"
                    )


def _end(message: str) -> None:
    """Ends this process at once: nothing else in it can be relied on."""
    os.write(2, f"error: {message}\n".encode(errors="replace"))
    os._exit(1)


def _forget() -> None:
    _watched.clear()
    _watcher.clear()


os.register_at_fork(after_in_child=_forget)
