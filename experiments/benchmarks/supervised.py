"""Measurements in a process of their own: one that fails or hangs ends no other one."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

Line: TypeAlias = dict[str, Any]
Measure: TypeAlias = Callable[[str], Iterator[Line]]
"""The name of a measurement -> its lines, as they come."""

GRACE = 20.0
"""Seconds after the end that a measurement has which runs then."""


def lines(
    measure: Measure, names: Sequence[str], end: float, silence: float
) -> Iterator[tuple[str, Line]]:
    """The lines of each measurement, as they come, with its name.

    If one raises an error, ends its process or is silent, its last line has the key `failed`, and a
    new process runs those that follow: a GPU takes no more work from a process in which a kernel
    failed.

    Args:
        measure: called in the process; it can be pickled.
        names: of the measurements, in order.
        end: after this `time.time()` none begins; those have the key `left out`.
        silence: seconds without a line after which a measurement is ended.

    """
    left, context = list(names), multiprocessing.get_context("spawn")
    while left and time.time() < end:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(measure, left, sender), daemon=True)
        process.start()
        sender.close()  # so that the end of the process is the end of the pipe
        yield from _heard(receiver, left, end, silence)
        process.kill()
        process.join()
    for name in left:
        yield name, {"left out": "no time was left"}


def _heard(
    receiver: Connection, left: list[str], end: float, silence: float
) -> Iterator[tuple[str, Line]]:
    """The lines of one process, until a measurement fails; takes what is done from `left`."""
    while left:
        line = _next(receiver, min(silence, end + GRACE - time.time()))
        if line is None:
            left.pop(0)
            if time.time() >= end:
                return
            continue
        yield left[0], line
        if "failed" in line:
            left.pop(0)
            return


def _next(receiver: Connection, seconds: float) -> Line | None:
    """The next line of a process, None where a measurement is done."""
    if not receiver.poll(max(0.0, seconds)):
        return {"failed": f"no line for {seconds:.0f} s"}
    try:
        line: Line | None = receiver.recv()
    except EOFError:
        return {"failed": "its process ended"}
    return line


def _work(measure: Measure, names: Sequence[str], sender: Connection) -> None:
    """Sends the lines of each measurement, and None after it, until one fails."""
    for name in names:
        try:
            for line in measure(name):
                sender.send(line)
        except Exception as error:
            sender.send({"failed": f"{type(error).__name__}: {error}"[:500]})
            return
        sender.send(None)
