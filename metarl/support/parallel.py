"""Where work is done: on which device, in chunks of tasks on threads, and in shards of tasks.

Work over tasks is a map over chunks and a sum of what they give (`Workers.sum`). Neither the number
of threads nor the division of the tasks among processes changes a bit of the sum, for two reasons:

- A chunk's size depends on the size of its tasks alone, and a process has whole chunks. So a chunk
  is the same computation wherever it runs. Nothing finer would do: torch computes a task in other
  last bits when other tasks accompany it, because a batched product of one matrix takes another
  path than one of several.
- The chunks' results are summed along one binary tree over the chunks of all processes. A process
  sums the nodes that cover its own chunks, and completes the tree from the nodes of the others.

Each chunk's tensor operations run on one core. Torch's own thread pool is kept at one thread per
operation: beside a simulator's pool on the same cores it slows an update many times.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from metarl.support.errors import UsageError
from metarl.support.types import Json

R = TypeVar("R")

ROWS_PER_CHUNK = 4096
"""Samples whose activations fit a core's cache: measured best of 1,000 to 40,000."""

Nodes: TypeAlias = Mapping[tuple[int, int], tuple[Tensor, ...]]
"""Sums of the chunks from the first index to before the second, in the indices of all chunks."""

Gather: TypeAlias = Callable[[Nodes], Iterable[Nodes]]
"""The nodes of this process -> those of every process, its own among them."""


@dataclass(frozen=True)
class Shard:
    """The tasks `start` to `stop` (exclusive) that a process has, of `total` in all processes."""

    start: int
    stop: int
    total: int

    def __post_init__(self) -> None:
        """Checks the order.

        Raises:
            ValueError: `start` to `stop` is no part of the tasks.

        """
        if not 0 <= self.start <= self.stop <= self.total:
            raise ValueError(f"{self} is not a part of tasks 0 to {self.total}")

    @classmethod
    def whole(cls, total: int) -> Self:
        """All tasks in one process."""
        return cls(0, total, total)

    @classmethod
    def of(cls, rank: int, ranks: int, total: int, chunk: int) -> Self:
        """The tasks of a process: whole chunks, as equal in number as can be, perhaps none."""
        chunks = -(-total // chunk)
        start, stop = (min(total, chunks * i // ranks * chunk) for i in (rank, rank + 1))
        return cls(start, stop, total)

    @property
    def tasks(self) -> int:
        """Number of tasks that the process has."""
        return self.stop - self.start

    def in_chunks(self, chunk: int) -> "Shard":
        """The same shard in indices of chunks.

        Raises:
            ValueError: it does not consist of whole chunks.

        """
        for end in (self.start, self.stop):
            if end % chunk and end != self.total:
                raise ValueError(f"{self} must begin and end at a multiple of {chunk} tasks")
        return Shard(*(-(-end // chunk) for end in (self.start, self.stop, self.total)))


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

    def __init__(self, threads: int = 0, gather: Gather | None = None):
        """Workers of one process.

        Args:
            threads: 0 takes every core of this process.
            gather: what exchanges the nodes of sums, where several processes share the tasks.

        """
        self.threads = threads or available_cores()
        torch.set_num_threads(1)
        # The number is one of each thread: where a product in a thread of the pool came first, it
        # would be divided over all cores, and its last bits would differ from run to run.
        self._pool: ThreadPoolExecutor | None = None
        if self.threads > 1:
            self._pool = ThreadPoolExecutor(
                self.threads, initializer=torch.set_num_threads, initargs=(1,)
            )
        self._gather = gather

    def describe(self, device: torch.device) -> Json:
        """What config.json of a run holds of the device and the threads."""
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        return {"learner": str(device), "name": name, "threads": self.threads}

    def map(self, function: Callable[..., R], *items: Iterable[Any]) -> list[R]:
        """`list(map(function, *items))`, on the pool's threads; one call alone on this thread."""
        calls = list(zip(*items, strict=True))
        if self._pool is None or len(calls) == 1:
            return [function(*call) for call in calls]
        return list(self._pool.map(lambda call: function(*call), calls))

    def sum(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *items: Iterable[Any],
        shard: Shard | None = None,
    ) -> tuple[Tensor, ...]:
        """The sum of the function's tensors over the chunks of all processes.

        Args:
            items: one for each chunk of this process, as for `map`.
            shard: which chunks these are (`Shard.in_chunks`); all of them if not given.

        Raises:
            ValueError: the items are not as many as the shard has, or a node is missing.

        """
        leaves = self.map(function, *items)
        shard = shard or Shard.whole(len(leaves))
        if len(leaves) != shard.tasks:
            raise ValueError(f"{len(leaves)} chunks are not those of {shard}")
        known = {(i, i + 1): leaf for i, leaf in enumerate(leaves, shard.start)}
        nodes: Nodes = {
            node: _node(*node, known) for node in _covered(0, shard.total, shard) if leaves
        }
        if self._gather is not None:
            nodes = {node: value for part in self._gather(nodes) for node, value in part.items()}
        return _node(0, shard.total, nodes)


def _middle(start: int, stop: int) -> int:
    """Where a node divides: its left half is the largest power of two below its size."""
    return start + (1 << (stop - start - 1).bit_length() - 1)


def _covered(start: int, stop: int, shard: Shard) -> Iterator[tuple[int, int]]:
    """The largest nodes under this one that lie within the shard."""
    if shard.start <= start and stop <= shard.stop:
        yield start, stop
    elif start < shard.stop and shard.start < stop:
        middle = _middle(start, stop)
        yield from _covered(start, middle, shard)
        yield from _covered(middle, stop, shard)


def _node(start: int, stop: int, known: Nodes) -> tuple[Tensor, ...]:
    """The value of a node: a known one, or the sum of its halves."""
    if (start, stop) in known:
        return known[start, stop]
    if stop - start <= 1:
        raise ValueError(f"no process has given chunk {start}")
    middle = _middle(start, stop)
    halves = _node(start, middle, known), _node(middle, stop, known)
    return tuple(left + right for left, right in zip(*halves, strict=True))


def chunk_size(tasks: int, rows_per_task: int, device: torch.device) -> int:
    """Tasks of a chunk: about `ROWS_PER_CHUNK` rows; a GPU takes all `tasks` at once.

    Sizes are powers of two, so that chunks of tasks with many rows (all time steps) fill those of
    tasks with fewer (every tenth): a shard of whole chunks of the latter is one of the former.
    """
    if device.type != "cpu":
        return max(1, tasks)
    return 1 << max(1, ROWS_PER_CHUNK // rows_per_task).bit_length() - 1


def chunk_slices(tasks: int, size: int) -> list[slice]:
    """Slices over the tasks of a process, each a chunk."""
    return [slice(start, min(start + size, tasks)) for start in range(0, tasks, size)]
