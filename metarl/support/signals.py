"""Signals that ask a program to end: Ctrl-C, a scheduler's request, a closed terminal."""

import math
import multiprocessing.connection
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess

from metarl.support.places import METARL

SAME_REQUEST_SECONDS = 1.0
"""Signals within this time after the first count as the same request to end."""
AT_ONCE_SECONDS = 5.0
"""What "at once" may take, after a second request."""
ENDED = b"\0"
"""What the thread that waits for signals reads when the block has ended; 0 is no signal."""


@contextmanager
def requests_to_end(
    receive: Callable[[int], None],
    seconds: float = math.inf,
    leave: Callable[[int], object] = lambda _: None,
) -> Iterator[None]:
    """In the block, SIGINT, SIGTERM and SIGHUP only call `receive` with their number.

    When the terminal is closed (SIGHUP), what would be printed there is dropped, because writing
    would fail. A program that `nohup` has started goes on then.

    If the block has not ended `seconds` after a signal, or soon after a second request, another
    thread calls `leave` with the signal's number. It hears of signals even while the main thread is
    in code that heeds none.
    """
    on_terminal = [output for output in (1, 2) if os.isatty(output)]

    def handle(number: int, _: object) -> None:
        if number == signal.SIGHUP:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for output in on_terminal:
                os.dup2(nowhere, output)
            os.close(nowhere)
        receive(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    arguments = (reading, numbers, seconds, leave)
    watch = threading.Thread(target=_leave_late, args=arguments, daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        os.write(writing, ENDED)  # and not only its end: a forked process may hold the pipe open
        watch.join()
        os.close(writing)
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_late(
    reading: int, numbers: Collection[int], seconds: float, leave: Callable[[int], object]
) -> None:
    """Calls `leave` if a signal is not followed by the end of the block."""
    number, first, last = 0, math.inf, math.inf
    with open(reading, "rb", buffering=0) as pipe:
        while (left := last - time.monotonic()) > 0:
            ready, _, _ = select.select([pipe], [], [], None if left == math.inf else left)
            heard = pipe.read(1) if ready else b""
            if heard == ENDED:
                return
            if not heard or heard[0] not in numbers:
                continue
            now = time.monotonic()
            if not number:
                number, first, last = heard[0], now, now + seconds
            elif now - first > SAME_REQUEST_SECONDS:
                last = min(last, now + AT_ONCE_SECONDS)
    leave(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """In the block, Ctrl-C raises KeyboardInterrupt in a way that `is_request_to_end` knows.

    Only if Python's own handler does so otherwise.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def is_request_to_end(error: BaseException) -> bool:
    """Whether a person pressed Ctrl-C, and no other code raised a KeyboardInterrupt."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True  # Python's own handler raises it in whatever code runs
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(METARL)


def end_with_children(process: BaseProcess, patience: float = 0.0) -> None:
    """Ends a process, which leads a group of its own, with all that it has started.

    Args:
        process: has called `os.setpgrp`.
        patience: seconds that it has to end by itself.

    """
    multiprocessing.connection.wait([process.sentinel], patience)
    assert process.pid is not None
    # Before it is joined, so that its number is that of no other process.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
