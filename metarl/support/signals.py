"""Signals that ask a program to end: Ctrl-C, a scheduler's request, a closed terminal."""

import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess

from metarl.support.places import METARL


@contextmanager
def requests_to_end(receive: Callable[[int], None]) -> Iterator[None]:
    """In the block, SIGINT, SIGTERM and SIGHUP only call `receive` with their number.

    When the terminal is closed (SIGHUP), what would be printed there is dropped, because writing
    would fail. A program that `nohup` has started goes on then.
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
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
