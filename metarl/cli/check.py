"""`metarl check`: checks families for what training relies on.

The checks of a family run in a process of their own, which its code may end, or keep for ever.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table

from metarl.simulation.checker import Finding, findings_of
from metarl.support.errors import UsageError
from metarl.support.places import place_of, text_of
from metarl.support.signals import end_with_children
from metarl.support.spawned import start
from metarl.support.text import counted
from metarl.tasks.family import make_family

BEAT = 1.0
"""Seconds between two signs of life."""
SILENCE = 60.0
"""Seconds without a sign of life, in which code keeps Python from running."""
MAKING = "can be made"
"""What comes before the checks."""


def run(names: Sequence[str]) -> None:
    """Checks families and prints a table for each; exits with status 1 if one has a fault."""
    if not names:
        raise UsageError("metarl check needs a family, as in metarl check envs:Navigation2D-v0")
    if options := [name for name in names if name.startswith("-")]:
        raise UsageError(f"metarl check has no option {options[0]}; it takes families, MODULE:ID")
    faults = 0
    for name in names:
        table = Table("", "check", "found", box=None, title=name, title_justify="left")
        for finding in check_apart(name):
            detail = finding.detail + (f"\n→ {finding.hint}" if finding.hint else "")
            outcome = "caution" if finding.caution else "ok" if finding.passed else "FAULT"
            table.add_row(outcome, finding.name, detail)
            faults += not finding.passed
        Console(markup=False).print(table)
    if faults:
        print(f"{counted(faults, 'fault')} found", file=sys.stderr)
        raise SystemExit(1)


def check_apart(name: str) -> Iterator[Finding]:
    """The findings of a family, from a process of its own.

    Raises:
        UsageError: there is no such family, or it cannot be made.

    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_check, args=(theirs, name), name=f"metarl check {name}")
    start(process)
    theirs.close()
    underway = MAKING
    try:
        while True:
            if not ours.poll(SILENCE):
                hint = "its code keeps Python from running, perhaps in a long loop in C"
                yield Finding(underway, False, f"gave no answer in {SILENCE:g} s", hint)
                return
            message = ours.recv()
            if isinstance(message, UsageError):
                raise message
            if isinstance(message, Finding):
                yield message
            elif message is None:
                return
            else:
                underway = message or underway
    except (EOFError, ConnectionResetError):
        process.join()
        end = f"its process ended with exit code {process.exitcode}"
        yield Finding(underway, False, end, "the environment's code must not end its process")
    finally:
        end_with_children(process)


def _check(connection: Connection, name: str) -> None:
    """Sends the names of checks as they begin, their findings, and None at the end."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    process, lock = os.getpid(), threading.Lock()

    def send(message: object) -> None:
        try:
            with lock:
                connection.send(message)
        except OSError:  # the main process has ended
            os._exit(1)

    def beat() -> None:
        while os.getpid() == process:
            time.sleep(BEAT)
            send("")

    threading.Thread(target=beat, daemon=True).start()
    try:
        family = make_family(name)
    except UsageError as error:
        send(UsageError(str(error)))
        return
    except BaseException as error:
        send(Finding(MAKING, False, text_of(error), f"raised at {place_of(error)}"))
        send(None)
        return
    for finding in findings_of(family, send):
        send(finding)
    send(None)
    # What the environments left running must not keep the process.
    with contextlib.suppress(OSError):
        connection.close()
    os._exit(0)
