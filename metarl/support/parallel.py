"""Where work is done: on which device, in chunks of tasks on threads, and in shards of tasks.

Work over tasks is a map over chunks and a sum of what they give (`Workers.sum`). Neither the number
of threads nor the division of the tasks among processes changes a bit of the sum, for two reasons:

- A chunk has so many tasks whatever the number of processes, and a process has whole chunks. So a
  chunk is the same computation wherever it runs. Nothing finer would do: torch computes a task in
  other last bits when other tasks accompany it, because a batched product of one matrix takes
  another path than one of several.
- The chunks' results are summed along one binary tree over the chunks of all processes. A process
  sums the nodes that cover its own chunks, and completes the tree from the nodes of the others.

Each chunk's tensor operations run on one core. Torch's own thread pool is kept at one thread per
operation: beside a simulator's pool on the same cores it slows an update many times.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from metarl.support.errors import UsageError
from metarl.support.types import Json

R = TypeVar("R")

ROWS_PER_CHUNK = 8192
"""Samples of a chunk at most: of 2, 4, 8 and 16 tasks with 2,000 each, 4 took the least time, also
where Fisher products see a tenth of the samples."""
LEAST_CHUNKS = 4
"""Chunks that tasks are divided into, however few samples they have, so that several threads and
processes can share them."""

CGROUP = Path("/sys/fs/cgroup")
"""Where the limits of a container stand."""

Node: TypeAlias = tuple[int, int]
"""The chunks from the first index to before the second, among the chunks of all processes."""


class Ranks(Protocol):
    """The processes that share the work: this one alone, or those that torchrun has started."""

    @property
    def rank(self) -> int:
        """Number of this process."""

    @property
    def number(self) -> int:
        """Number of processes."""

    def gather(self, values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The vector of each process, by rank; `lengths` are their lengths."""

    def exchange(self, value: R) -> list[R]:
        """The value of each process, by rank; values can be pickled."""


class Alone:
    """The only process of a run."""

    rank, number = 0, 1

    def gather(self, values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The vector."""
        return [values]

    def exchange(self, value: R) -> list[R]:
        """The value."""
        return [value]


@dataclass(frozen=True)
class Shard:
    """The tasks that a process has: whole chunks, as equal in number as can be."""

    total: int
    """Tasks of all processes."""
    chunk: int
    """Tasks of a chunk; the last one may have fewer."""
    rank: int = 0
    ranks: int = 1

    @classmethod
    def whole(cls, tasks: int, rows: int, device: torch.device) -> Self:
        """All tasks in one process; each can have so many `rows` of samples."""
        return cls(tasks, chunk_size(tasks, rows) if device.type == "cpu" else tasks)

    @property
    def chunks(self) -> range:
        """The indices of its chunks among all."""
        number = self.all_chunks
        return range(number * self.rank // self.ranks, number * (self.rank + 1) // self.ranks)

    @property
    def all_chunks(self) -> int:
        """Number of chunks of all processes."""
        return -(-self.total // self.chunk)

    @property
    def tasks(self) -> slice:
        """Its tasks among all."""
        ends = self.chunks.start, self.chunks.stop
        return slice(*(min(self.total, self.chunk * end) for end in ends))

    @property
    def slices(self) -> list[slice]:
        """Each of its chunks, in indices of its own tasks."""
        first, stop = self.tasks.start, self.tasks.stop
        return [
            slice(start - first, min(start + self.chunk, stop) - first)
            for start in range(first, stop, self.chunk)
        ]

    @property
    def all(self) -> "list[Shard]":
        """Those of all processes, by rank."""
        return [replace(self, rank=rank) for rank in range(self.ranks)]


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
    if name == "cpu" or not available:
        return torch.device("cpu")
    if "LOCAL_RANK" not in os.environ:
        return torch.device("cuda")
    # torchrun numbers the processes of a host: each takes a GPU of its own, if there are as many.
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def free_memory(device: torch.device) -> float:
    """Bytes that this process may still take; infinite where nothing says how many."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    free = math.inf
    with contextlib.suppress(OSError, ValueError):
        (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if "Available" in x)
        free = 1024.0 * int(line.split()[1])
    with contextlib.suppress(OSError, ValueError):  # of a container; "max" without a limit
        most, taken = (
            int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current")
        )
        free = min(free, float(most - taken))
    return free


class Workers:
    """A pool of threads that maps a function over chunks, in order."""

    def __init__(self, threads: int = 0, ranks: Ranks | None = None, task_chunk: int = 0):
        """Workers of one process.

        Args:
            threads: 0 takes every core of this process.
            ranks: the processes that share the tasks; this one alone if not given.
            task_chunk: tasks that are computed at once, at most; 0: as many as is fast.

        """
        self.threads = threads or available_cores()
        self.ranks = ranks or Alone()
        self.task_chunk = task_chunk
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

    def shard(self, tasks: int, rows: int, device: torch.device) -> Shard:
        """What this process has of `tasks` tasks with up to `rows` samples each.

        Raises:
            UsageError: there are more processes than chunks of tasks.

        """
        number = self.ranks.number
        chunk = Shard.whole(tasks, rows, device).chunk
        if device.type != "cpu":
            chunk = -(-tasks // number)  # a GPU takes all of its tasks at once
        if self.task_chunk:
            chunk = min(chunk, self.task_chunk)
        shard = Shard(tasks, chunk, self.ranks.rank, number)
        if shard.ranks > shard.all_chunks:
            raise UsageError(
                f"{shard.ranks} processes cannot share {tasks} tasks, which are computed {chunk} "
                f"at a time: start at most {shard.all_chunks}, or take more tasks"
            )
        return shard

    def map(
        self, function: Callable[..., R], *items: Iterable[Any], shard: Shard | None = None
    ) -> list[R]:
        """`list(map(function, *items))`, on the pool's threads; one call alone on this thread.

        Args:
            shard: whose chunks the items are, no more of which are computed at once than
                `task_chunk` allows.

        """
        calls = list(zip(*items, strict=True))
        together = len(calls)
        if shard is not None and self.task_chunk:
            together = max(1, self.task_chunk // shard.chunk)
        if self._pool is None or min(together, len(calls)) <= 1:
            return [function(*call) for call in calls]
        parts = (calls[i : i + together] for i in range(0, len(calls), together))
        return [x for part in parts for x in self._pool.map(lambda call: function(*call), part)]

    def keeps(self, tasks: int, bytes_each: float, device: torch.device) -> bool:
        """Whether what is computed of so many tasks may be kept, or has to be computed again.

        Without `task_chunk`, it may take half of the memory that is free, divided by the processes
        that share it.
        """
        if self.task_chunk:
            return tasks <= self.task_chunk
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if device.type == "cuda":
            sharing = -(-sharing // torch.cuda.device_count())
        return tasks * bytes_each <= free_memory(device) / 2 / sharing

    def sum(
        self, function: Callable[[Any], tuple[Tensor, ...]], items: Iterable[Any], shard: Shard
    ) -> tuple[Tensor, ...]:
        """The sum of the function's tensors over the chunks of all processes.

        Args:
            items: one for each chunk of the shard.

        Raises:
            ValueError: the items are not as many as the shard has chunks.

        """
        leaves = self.map(function, items, shard=shard)
        if len(leaves) != len(shard.chunks):
            raise ValueError(f"{len(leaves)} results are not those of chunks {shard.chunks}")
        known = {(i, i + 1): leaf for i, leaf in zip(shard.chunks, leaves, strict=True)}
        if shard.ranks > 1:
            known = self._gathered(known, shard)
        return _node((0, shard.all_chunks), known)

    def _gathered(
        self, known: dict[Node, tuple[Tensor, ...]], shard: Shard
    ) -> dict[Node, tuple[Tensor, ...]]:
        """The nodes that the chunks of every process fill, in one message of each."""
        nodes = [list(_filled((0, shard.all_chunks), peer.chunks)) for peer in shard.all]
        own = [_node(node, known) for node in nodes[shard.rank]]
        like = own[0]
        size = sum(tensor.numel() for tensor in like)
        # Where dtypes differ, `cat` takes the widest, from which each comes back as it was.
        message = torch.cat([tensor.reshape(-1) for node in own for tensor in node])
        messages = self.ranks.gather(message, [size * len(keys) for keys in nodes])
        return {
            key: tuple(
                part.view_as(tensor).to(tensor.dtype)
                for part, tensor in zip(
                    row.split([tensor.numel() for tensor in like]), like, strict=True
                )
            )
            for keys, values in zip(nodes, messages, strict=True)
            for key, row in zip(keys, values.view(len(keys), size), strict=True)
        }


def _middle(node: Node) -> int:
    """Where a node divides: its left half is the largest power of two below its size."""
    start, stop = node
    return start + (1 << (stop - start - 1).bit_length() - 1)


def _filled(node: Node, chunks: range) -> Iterator[Node]:
    """The largest nodes under this one that consist of the chunks."""
    start, stop = node
    if chunks.start <= start and stop <= chunks.stop:
        yield node
    elif start < chunks.stop and chunks.start < stop:
        middle = _middle(node)
        yield from _filled((start, middle), chunks)
        yield from _filled((middle, stop), chunks)


def _node(node: Node, known: Mapping[Node, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The value of a node: a known one, or the sum of its halves."""
    if node in known:
        return known[node]
    middle = _middle(node)
    halves = _node((node[0], middle), known), _node((middle, node[1]), known)
    return tuple(left + right for left, right in zip(*halves, strict=True))


def chunk_size(tasks: int, rows: int) -> int:
    """Tasks of a chunk on the CPU: a power of two, with about `ROWS_PER_CHUNK` rows at most.

    Args:
        tasks: of all processes.
        rows: samples that a task can have. Not those that it happens to have: processes must
            divide the tasks before they know.

    """
    most = max(1, min(ROWS_PER_CHUNK // max(1, rows), tasks // LEAST_CHUNKS))
    return 1 << most.bit_length() - 1
