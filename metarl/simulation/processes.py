"""Any Gymnasium environment with a task, several of them in worker processes.

Gymnasium's AsyncVectorEnv has no tasks, does not say which environment failed, and waits forever
for a worker that died. Here every call ends with all results or with a `WorkerError`.
"""

import contextlib
import ctypes
import itertools
import math
import multiprocessing
import signal
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

from metarl.simulation.serial import Results, SerialEnvironments, empty_results
from metarl.support.errors import WorkerError
from metarl.tasks.family import task_environment
from metarl.tasks.task import Tasks, select_tasks, validate_tasks

Layout = dict[str, tuple[tuple[int, ...], npt.DTypeLike]]
"""Shape and type of each array in shared memory."""

Memory = dict[str, "ctypes.Array[ctypes.c_byte]"]
"""Shared memory of each array."""

PATIENCE = 2.0
"""Seconds that a worker has to end before it is killed."""
START_TIMEOUT = 300.0
"""Seconds that a worker has to import modules and to make its environments."""


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
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
        timeout: float = 60.0,
        info: Sequence[str] = (),
    ):
        """Starts the workers.

        Args:
            make: makes one environment; it must pickle.
            num_envs: number of environments.
            processes: number of workers.
            timeout: seconds that a worker has for its part of a call.
            info: names of the numbers in the environments' info that `Results.info` holds.

        Raises:
            WorkerError: a worker cannot make its environments.

        """
        prototype = make()
        base = task_environment(prototype)
        self.num_envs = num_envs
        self._task_space = base.task_space
        self.observation_space = prototype.observation_space
        self.action_space = prototype.action_space
        self._timeout = timeout
        self._info = tuple(info)
        self._tasks: Tasks = {
            name: np.repeat(np.asarray(base.task[name])[None], num_envs, 0)
            for name in self._task_space
        }
        prototype.close()
        self._workers: list[_Worker] = []
        # Ends the workers even if nobody calls `close`.
        self._finalizer = weakref.finalize(self, _end, self._workers)
        self._start(make, min(processes, num_envs))
        self._gather("start", START_TIMEOUT)

    def _start(self, make: Callable[[], gymnasium.Env], processes: int) -> None:
        """Starts the workers, each with its part of the environments and the shared memory."""
        layout = self._layout(processes)
        memory = _allocated(layout)
        self._shared = _arrays(memory, layout)
        self._results = Results(*(self._shared[name] for name in Results._fields))
        bounds = np.linspace(0, self.num_envs, processes + 1).astype(int)
        for i, (low, high) in enumerate(itertools.pairwise(bounds)):
            part = slice(int(low), int(high))
            try:
                self._workers.append(_started(i, make, part, memory, layout, self._info))
            except Exception:  # for example, `make` cannot be pickled
                self._finalizer()
                raise

    def begin(self, tasks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        """Starts an episode of each task and returns the first observations: [n, ...]."""
        self._tasks = validate_tasks(self._task_space, tasks, self.num_envs)
        self._call("reset", lambda part: (select_tasks(self._tasks, part), list(seeds[part])))
        return self._results.observations

    def step(self, actions: np.ndarray) -> Results:
        """Steps the environments whose episodes have not ended."""
        self._shared["actions"][:] = actions
        self._call("step", lambda part: None)
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
            raise WorkerError(f"{name}: the workers are closed")
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
                self._fail(i, name, f"gave no answer in {timeout:g} s")
            try:
                failure = worker.connection.recv()
            except (EOFError, OSError):
                self._fail(i, name, self._epitaph(i))
            if failure is not None:
                self._fail(i, name, f"failed:\n{failure}")

    def _epitaph(self, i: int) -> str:
        process = self._workers[i].process
        process.join(PATIENCE)
        return f"died with exit code {process.exitcode}"

    def _fail(self, i: int, name: str, what: str) -> None:
        worker = self._workers[i]
        index = worker.environments.start + int(self._shared["current"][i])
        task = {key: value.tolist() for key, value in select_tasks(self._tasks, index).items()}
        where = f"in {name}, at environment {index} with task {task},"
        self._finalizer()
        raise WorkerError(f"worker {i} of {len(self._workers)} {where} {what}")


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


def _started(
    number: int,
    make: Callable[[], gymnasium.Env],
    part: slice,
    memory: Memory,
    layout: Layout,
    info: tuple[str, ...],
) -> _Worker:
    """A worker process that makes the environments `part` of all."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(
        target=_serve,
        args=(theirs, make, part, number, memory, layout, info),
        name=f"metarl worker {number}",
        daemon=True,
    )
    process.start()
    theirs.close()  # otherwise the end of the worker would not close the pipe
    return _Worker(process, ours, part)


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()  # an idle worker then ends by itself
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(PATIENCE)


def _serve(
    connection: Connection,
    make: Callable[[], gymnasium.Env],
    part: slice,
    number: int,
    memory: Memory,
    layout: Layout,
    info: tuple[str, ...],
) -> None:
    """Executes commands in a worker until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    shared = _arrays(memory, layout)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        failure = None
        try:
            env = SerialEnvironments(
                make, part.stop - part.start, shared["current"][number : number + 1], info
            )
        except Exception:
            failure = traceback.format_exc()
        connection.send(failure)
        while failure is None:
            name, argument = connection.recv()
            try:
                if name == "reset":
                    shared["observations"][part] = env.begin(*argument)
                else:
                    results = env.step(shared["actions"][part])
                    for key, values in results._asdict().items():
                        shared[key][part] = values
            except Exception:
                failure = traceback.format_exc()
            connection.send(failure)
