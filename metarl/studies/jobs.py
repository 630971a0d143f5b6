"""Runs several jobs at a time, each in its own process with its own log."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from metarl.support.errors import InUseError, UsageError
from metarl.support.files import expect_writable
from metarl.support.parallel import available_cores
from metarl.support.signals import requests_to_end
from metarl.support.spawned import expect_guard, start

LOG = "log.txt"
"""File of a run folder with what its process printed."""
IN_USE = 75
"""Exit code of a job whose folder another process uses: EX_TEMPFAIL of sysexits.h."""
POLL_SECONDS = 0.2
"""Longest time until a signal is handled."""


@dataclass(frozen=True, eq=False)
class Job:
    """A function that a spawned process calls, and the file for its output."""

    name: str
    function: Callable[..., None]
    arguments: tuple[object, ...]
    log: Path


def run_jobs(
    jobs: Iterable[Job],
    is_finished: Callable[[Job], bool] = lambda _: False,
    at_a_time: int = 0,
    described: Callable[[Job], str] = lambda _: "finished",
    again: str = "the same command",
) -> dict[Job, int]:
    """Runs the jobs that are not finished, `at_a_time` in parallel; 0 runs one per core.

    A job is taken from `jobs` when it can begin. When it has ended well, the line about it says
    what `described` returns. Requests to end are forwarded to the running jobs; this process
    exits when they have ended, and says that `again` continues.

    Returns:
        The exit code of every job.

    """
    context = multiprocessing.get_context("spawn")
    at_a_time = at_a_time or available_cores()
    waiting, codes = iter(jobs), dict[Job, int]()
    all_begun = False
    running: dict[int, tuple[BaseProcess, Job]] = {}  # by sentinel
    with _signals() as received:
        forwarded = 0
        while running or not (all_begun or received):
            while len(running) < at_a_time and not (all_begun or received):
                job = next(waiting, None)
                if job is None:
                    all_begun = True
                    break
                codes[job] = 0
                if is_finished(job):
                    _say(job, "finished before")
                    continue
                process: BaseProcess = context.Process(target=_run, args=(job,))
                start(process)
                running[process.sentinel] = process, job
            ended = multiprocessing.connection.wait(list(running), POLL_SECONDS)
            for sentinel in [s for s in running if s in ended]:
                process, job = running.pop(sentinel)
                process.join()
                codes[job] = process.exitcode or 0
                if codes[job] == IN_USE:
                    _say(job, "another process has it")
                elif codes[job]:
                    _say(job, "stopped" if received else "failed")
                else:
                    _say(job, described(job))
            # Forwarded here, not in the handler, which may interrupt the start of a job.
            while forwarded < len(received):
                forwarded += 1
                for process, _ in running.values():
                    process.terminate()  # the run then ends with a checkpoint
    if received:
        print(f"stopped; {again} continues from here")
        raise SystemExit(128 + received[0])
    return codes


def expect_success(codes: Mapping[Job, int]) -> None:
    """Checks the exit codes of jobs.

    Raises:
        UsageError: one failed; the message has the last line of its log, or says what the script
            that started it lacks.

    """
    for job, code in codes.items():
        expect_guard(code)
        if code == IN_USE:
            raise UsageError(
                f"{job.name} is in use by another process: give the same command again when it has "
                "ended"
            )
        if code:
            raise UsageError(f"{job.name} ended with status {code}: {_last_line(job.log)}")


def _last_line(log: Path) -> str:
    """The last line of a log, and where it is."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:  # the process did not come so far: what it printed is on the terminal
        return f"it has no log {log}; standard error may say why"
    return f"{lines[-1] if lines else 'no output'} (in {log})"


def _say(job: Job, what: str) -> None:
    print(f"{job.name}: {what}", flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """In the block, a request to end only appends its number to the yielded list."""
    received: list[int] = []
    with requests_to_end(received.append):
        yield received


def _run(job: Job) -> None:
    """Runs a job in its own process, with the output in its log; ends when the parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    os.setpgrp()  # Ctrl-C in a terminal reaches only the parent, which forwards it
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        with expect_writable(job.log):
            log = open(job.log, "a")  # noqa: SIM115 (held by the process)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        job.function(*job.arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(IN_USE if isinstance(error, InUseError) else 2) from None
