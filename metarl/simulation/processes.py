"""Any Gymnasium environment with a task, several of them in worker processes.

Gymnasium's AsyncVectorEnv has no tasks, does not say which environment failed, and waits forever
for a worker that died. Here every call ends with all results or with a `WorkerError`.
"""

import contextlib
import ctypes
import faulthandler
import itertools
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import gymnasium
import numpy as np
import numpy.typing as npt

from metarl.simulation.serial import Place, Results, SerialEnvironments, empty_results
from metarl.support.errors import FamilyError, WorkerError
from metarl.support.foreign import LIMIT, START_LIMIT, Calling
from metarl.support.places import described, place_in_dump
from metarl.support.signals import end_with_children
from metarl.support.spawned import UNGUARDED, expect_guard, start
from metarl.tasks.family import task_environment
from metarl.tasks.task import Tasks, select_tasks, validate_tasks

Layout = dict[str, tuple[tuple[int, ...], npt.DTypeLike]]
"""Shape and type of each array in shared memory."""

Memory = dict[str, "ctypes.Array[ctypes.c_byte]"]
"""Shared memory of each array."""

PATIENCE = 2.0
"""Seconds that a worker has to end before it is killed."""
TOLD = 1.0
"""Seconds within which a worker that gives no answer says where it is."""


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    whereabouts: Connection
    environments: slice


class ProcessEnvironments:
    """Like `SerialEnvironments`, with the environments divided among worker processes.

    Observations, actions, rewards and flags are in shared memory. The results depend neither on
    the process that steps an environment nor on the number of processes.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        processes: int,
        timeout: float = LIMIT,
        info: Sequence[str] = (),
        name: str = "the environment",
    ):
        """Starts the workers.

        Args:
            make: makes one environment; it must pickle.
            num_envs: number of environments.
            processes: number of workers.
            timeout: seconds that a worker has for its part of a call.
            info: names of the numbers in the environments' info that `Results.info` holds.
            name: of the family, for messages.

        Raises:
            FamilyError: an environment cannot be made, here or in a worker.

        """
        self._name = name
        with Calling(lambda: f"{name}: an environment in the main process", timeout) as calling:
            calling.limit = max(timeout, START_LIMIT)
            prototype = make()
            self._task_space = task_environment(prototype).task_space
            self.observation_space = prototype.observation_space
            self.action_space = prototype.action_space
            calling.again()
            calling.limit = timeout
            prototype.close()
        self.num_envs = num_envs
        self._timeout = timeout
        self._info = tuple(info)
        self._place = Place(name)
        self._workers: list[_Worker] = []
        # Ends the workers even if nobody calls `close`.
        self._finalizer = weakref.finalize(self, _end, self._workers)
        self._start(make, min(processes, num_envs))
        self._gather("__init__", max(timeout, START_LIMIT))

    def _start(self, make: Callable[[], gymnasium.Env], processes: int) -> None:
        """Starts the workers, each with its part of the environments and the shared memory."""
        layout = self._layout(processes)
        memory = _allocated(layout)
        self._shared = _arrays(memory, layout)
        self._results = Results(*(self._shared[name] for name in Results._fields))
        self._shared["current"][:] = 0
        bounds = np.linspace(0, self.num_envs, processes + 1).astype(int)
        for i, (low, high) in enumerate(itertools.pairwise(bounds)):
            part = slice(int(low), int(high))
            arguments = (make, part, i, memory, layout, self._info, self._name)
            try:
                self._workers.append(_started(i, part, arguments))
            except Exception:  # for example, `make` cannot be pickled
                self._finalizer()
                raise

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode of each task and returns the first observations: [n, ...]."""
        checked = validate_tasks(self._task_space, tasks, self.num_envs)
        self._place.begin(checked, seeds)
        self._call("reset", lambda part: (select_tasks(checked, part), list(seeds[part])))
        return self._results.observations

    def step(self, actions: np.ndarray) -> Results:
        """Steps the environments whose episodes have not ended."""
        self._shared["actions"][:] = actions
        self._call("step", lambda part: None)
        self._place.step += 1
        return self._results

    def close(self) -> None:
        """Ends the workers, within seconds."""
        self._finalizer()

    def _layout(self, processes: int) -> Layout:
        action = self.action_space
        results = empty_results(self.observation_space, self.num_envs, len(self._info))
        return {
            **{name: (array.shape, array.dtype) for name, array in results._asdict().items()},
            "actions": ((self.num_envs, *(action.shape or ())), action.dtype),
            "current": ((processes,), np.int64),
        }

    def _call(self, name: str, argument: Callable[[slice], object]) -> None:
        if not self._finalizer.alive:
            raise WorkerError(f"{self._name}: {name}: the workers are closed")
        for i, worker in enumerate(self._workers):
            try:
                worker.connection.send((name, argument(worker.environments)))
            except OSError:  # the pipe is broken
                self._fail(i, name, self._epitaph(i))
        self._gather(name, self._timeout)

    def _gather(self, name: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for i, worker in enumerate(self._workers):
            if not worker.connection.poll(max(0.0, deadline - time.monotonic())):
                told = f"gave no answer in {timeout:g} s{_whereabouts(worker)}"
                self._fail(i, name, f"{told}; --worker-timeout is the limit")
            try:
                failure = worker.connection.recv()
            except (EOFError, OSError):
                self._fail(i, name, self._epitaph(i))
            if failure is not None:
                self._finalizer()
                message, trace = failure
                error = FamilyError(f"{message} [worker {i} of {len(self._workers)}]")
                error.add_note(trace)  # Python prints it below its own traceback
                raise error

    def _epitaph(self, i: int) -> str:
        process = self._workers[i].process
        process.join(PATIENCE)
        if process.exitcode == UNGUARDED:
            self._finalizer()
            expect_guard(process.exitcode)
        return f"died with exit code {process.exitcode}{_whereabouts(self._workers[i])}"

    def _fail(self, i: int, name: str, what: str) -> None:
        worker = self._workers[i]
        index = worker.environments.start + int(self._shared["current"][i])
        self._finalizer()
        where = self._place.of(name, index)
        raise WorkerError(f"{where}: worker {i} of {len(self._workers)} {what}")


def _allocated(layout: Layout) -> Memory:
    spawn = multiprocessing.get_context("spawn")
    return {
        name: spawn.RawArray(ctypes.c_byte, math.prod(shape) * np.dtype(dtype).itemsize)
        for name, (shape, dtype) in layout.items()
    }


def _arrays(memory: Memory, layout: Layout) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(memoryview(memory[name]), dtype).reshape(shape)
        for name, (shape, dtype) in layout.items()
    }


def _started(number: int, part: slice, arguments: tuple[object, ...]) -> _Worker:
    """A worker process that makes the environments `part` of all."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    whereabouts, told = spawn.Pipe(duplex=False)
    process = spawn.Process(
        target=_serve,
        args=(theirs, told, *arguments),
        name=f"metarl worker {number}",
        daemon=True,
    )
    start(process)
    theirs.close()  # otherwise the end of the worker would not close the pipe
    told.close()
    return _Worker(process, ours, whereabouts, part)


def _whereabouts(worker: _Worker) -> str:
    """The line of the user's code in which a worker hangs or has died, also in C code."""
    assert worker.process.pid is not None
    with contextlib.suppress(OSError):
        if worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGUSR1)
        text, deadline = b"", time.monotonic() + TOLD
        while worker.whereabouts.poll(max(0.0, deadline - time.monotonic())):
            part = os.read(worker.whereabouts.fileno(), 65536)
            text += part
            if not part:
                break
        place = place_in_dump(text.decode(errors="replace"))
        return f" ({place})" if place else ""
    return ""


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()  # an idle worker then ends by itself
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        end_with_children(worker.process, max(0.0, deadline - time.monotonic()))


def _serve(
    connection: Connection,
    told: Connection,
    make: Callable[[], gymnasium.Env],
    part: slice,
    number: int,
    memory: Memory,
    layout: Layout,
    info: tuple[str, ...],
    name: str,
) -> None:
    """Executes commands in a worker until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    os.setpgrp()
    faulthandler.enable(told.fileno())  # where a segmentation fault arises
    faulthandler.register(signal.SIGUSR1, told.fileno(), all_threads=False)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    shared = _arrays(memory, layout)
    env: SerialEnvironments | None = None

    def execute(command: str, argument: tuple[Tasks, list[int]] | None) -> None:
        nonlocal env
        if env is None:
            current = shared["current"][number : number + 1]
            unlimited = math.inf  # the main process waits no longer than it has to
            env = SerialEnvironments(
                make, part.stop - part.start, current, info, name, unlimited, part.start
            )
        elif argument is not None:
            shared["observations"][part] = env.begin(*argument)
        else:
            for key, values in env.step(shared["actions"][part])._asdict().items():
                shared[key][part] = values

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        command: tuple[str, tuple[Tasks, list[int]] | None] = "__init__", None
        while True:
            failure = None
            try:
                execute(*command)
            except BaseException as error:
                own = isinstance(error, FamilyError)
                message = str(error) if own else f"{name}: {command[0]}: {described(error)}"
                failure = message, traceback.format_exc()
            connection.send(failure)
            if failure is not None:
                return
            command = connection.recv()


def _end_with_parent() -> None:
    """Ends a worker whose call does not return when the process that started it has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
