"""Where work is done: on which device, and in chunks of tasks on Python threads.

Each chunk's tensor operations run on one core.

Chunks of a fixed size stay in the cache and, because the size does not depend on the number of
threads, the result is bit-equal for any number of them. Torch's own thread pool is kept at one
thread per operation: beside a simulator's pool on the same cores it slows an update many times.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from metarl.support.errors import UsageError
from metarl.support.types import Json

R = TypeVar("R")

ROWS_PER_CHUNK = 4096
"""Samples whose activations fit a core's cache: measured best of 1,000 to 40,000."""


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here.

    Raises:
        UsageError: `cuda` where there is none.

    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        build = "has" if torch.version.cuda else "is built without"
        raise UsageError(
            f"--device cuda: no GPU is available (torch {build} CUDA); use auto or cpu"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


class Workers:
    """A pool of threads that maps a function over chunks, in order."""

    def __init__(self, threads: int = 0):
        """`threads`: 0 takes every core of this process."""
        self.threads = threads or available_cores()
        torch.set_num_threads(1)
        # The number is one of each thread: where a product in a thread of the pool came first, it
        # would be divided over all cores, and its last bits would differ from run to run.
        self._pool: ThreadPoolExecutor | None = None
        if self.threads > 1:
            self._pool = ThreadPoolExecutor(
                self.threads, initializer=torch.set_num_threads, initargs=(1,)
            )

    def describe(self, device: torch.device) -> Json:
        """What config.json of a run holds of the device and the threads."""
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        return {"learner": str(device), "name": name, "threads": self.threads}

    def map(self, function: Callable[..., R], *items: Iterable[Any]) -> list[R]:
        """`list(map(function, *items))`, on the pool's threads."""
        return list((self._pool.map if self._pool else map)(function, *items))


def chunk_slices(tasks: int, rows_per_task: int, device: torch.device) -> list[slice]:
    """Slices over tasks that hold about `ROWS_PER_CHUNK` rows each; a GPU takes all at once."""
    if device.type != "cpu":
        return [slice(0, tasks)]
    size = max(1, min(tasks, ROWS_PER_CHUNK // rows_per_task))
    return [slice(start, min(start + size, tasks)) for start in range(0, tasks, size)]
