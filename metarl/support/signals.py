"""Signals that ask a program to end: Ctrl-C, a scheduler's request, a closed terminal."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
