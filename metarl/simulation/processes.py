"""Any Gymnasium environment with a task, several of them in worker processes.

Gymnasium's AsyncVectorEnv has no tasks, does not say which environment failed, and waits for ever
for a worker that died. Here every call ends: with all results, or with a `WorkerError`.
"""

import contextlib
import itertools
import multiprocessing
import signal
import time
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from metarl.simulation.serial import SerialVectorEnv, success_info
from metarl.support.errors import WorkerError
from metarl.tasks.family import task_environment
from metarl.tasks.task import Tasks, select_tasks, validate_tasks

Layout = dict[str, tuple[tuple[int, ...], Any]]
"""Shape and type of each array in shared memory."""

RESULTS = ("observations", "rewards", "terminated", "truncated", "success")
"""Of a step."""

PATIENCE = 2.0
"""Seconds that a worker has for its end before it is killed."""
START_TIMEOUT = 300.0
"""Seconds for imports and the making of environments."""


@dataclass
class _Worker:
    process: Any
    connection: Connection
    environments: slice


class ProcessVectorEnv(gymnasium.vector.VectorEnv):
    """What `SerialVectorEnv` is, with the environments divided among processes.

    Observations, actions, rewards and flags are in memory that all share. Which process steps an
    environment changes nothing in its results, so their number does not either.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        processes: int,
        timeout: float = 60.0,
    ):
        """`make` must pickle; `timeout`: seconds that a worker has for its part of a call.

        Raises:
            WorkerError: a worker cannot make its environments.

        """
        prototype = make()
        base = task_environment(prototype)
        self.num_envs = num_envs
        self.task_space = base.task_space
        self.single_observation_space = prototype.observation_space
        self.single_action_space = prototype.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._timeout = timeout
        self._tasks: Tasks = {
            name: np.repeat(np.asarray(base.task[name])[None], num_envs, 0)
            for name in self.task_space
        }
        prototype.close()

        spawn = multiprocessing.get_context("spawn")
        processes = min(processes, num_envs)
        layout = self._layout(processes)
        memory = {
            name: spawn.RawArray("b", int(np.prod(shape)) * np.dtype(dtype).itemsize)
            for name, (shape, dtype) in layout.items()
        }
        self._shared = _arrays(memory, layout)
        self._workers: list[_Worker] = []
        # Also where nobody closes it.
        self._finalizer = weakref.finalize(self, _end, self._workers)
        bounds = np.linspace(0, num_envs, processes + 1).astype(int)
        for i, (low, high) in enumerate(itertools.pairwise(bounds)):
            ours, theirs = spawn.Pipe()
            part = slice(int(low), int(high))
            process = spawn.Process(
                target=_serve,
                args=(theirs, make, part, i, memory, layout),
                name=f"metarl worker {i}",
                daemon=True,
            )
            try:
                process.start()
            except Exception:  # as where `make` does not pickle
                self._finalizer()
                raise
            theirs.close()  # so that its end shows here as the end of the file
            self._workers.append(_Worker(process, ours, part))
        self._gather("start", START_TIMEOUT)

    @property
    def task(self) -> Tasks:
        """The tasks of the environments: arrays [num_envs, ...]."""
        return {name: values.copy() for name, values in self._tasks.items()}

    @task.setter
    def task(self, tasks: Mapping[str, Any]) -> None:
        self._tasks = validate_tasks(self.task_space, tasks, self.num_envs)
        self._call("task", lambda part: select_tasks(self._tasks, part))

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes in all environments, or in those of `options["reset_mask"]`."""
        mask = (options or {}).get("reset_mask")
        mask = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        self._call("reset", lambda part: (seeds and list(seeds[part]), mask[part]))
        return self._shared["observations"].copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps the environments whose episodes have not ended."""
        self._shared["actions"][:] = actions
        self._call("step", lambda part: None)
        observations, rewards, terminated, truncated, success = (
            self._shared[name].copy() for name in RESULTS
        )
        return observations, rewards, terminated, truncated, success_info(success)

    def close_extras(self, **_kwargs: Any) -> None:
        """Ends the workers, within seconds."""
        self._finalizer()

    def _layout(self, processes: int) -> Layout:
        n = self.num_envs
        observation, action = self.single_observation_space, self.single_action_space
        return {
            "observations": ((n, *(observation.shape or ())), observation.dtype),
            "actions": ((n, *(action.shape or ())), action.dtype),
            "rewards": ((n,), np.float64),
            "terminated": ((n,), np.bool_),
            "truncated": ((n,), np.bool_),
            "success": ((n,), np.float64),  # NaN where nothing is told
            "current": ((processes,), np.int64),
        }

    def _call(self, name: str, argument: Callable[[slice], Any]) -> None:
        if not self._finalizer.alive:
            raise WorkerError(f"{name}: the vector environment is closed")
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


def _arrays(memory: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(memory[name], dtype).reshape(shape)
        for name, (shape, dtype) in layout.items()
    }


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()  # an idle worker ends by itself then
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
    memory: Mapping[str, Any],
    layout: Layout,
) -> None:
    """A worker: does what it is told until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    shared = _arrays(memory, layout)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        failure = None
        try:
            env = SerialVectorEnv(
                make, part.stop - part.start, shared["current"][number : number + 1]
            )
        except Exception:
            failure = traceback.format_exc()
        connection.send(failure)
        while failure is None:
            name, argument = connection.recv()
            try:
                if name == "task":
                    env.task = argument
                elif name == "reset":
                    seeds, mask = argument
                    observations, _ = env.reset(seed=seeds, options={"reset_mask": mask})
                    shared["observations"][part] = observations
                else:
                    *results, info = env.step(shared["actions"][part])
                    results.append(info.get("success", np.nan))
                    for key, result in zip(RESULTS, results, strict=True):
                        shared[key][part] = result
            except Exception:
                failure = traceback.format_exc()
            connection.send(failure)
