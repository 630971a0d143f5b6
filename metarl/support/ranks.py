"""The processes that torchrun has started for one run, on one or several hosts.

Each process (*rank*) runs the whole program on its share of the tasks. They meet in the collectives
of torch.distributed: gloo between CPUs, NCCL between GPUs.
"""

import atexit
import contextlib
import datetime
import functools
import os
import socket
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from metarl.support.errors import RankError
from metarl.support.parallel import Alone, Ranks, Workers, available_cores

T = TypeVar("T")


class Torchrun:
    """The processes that torchrun has started."""

    def __init__(self, timeout: float):
        """Meets the other processes.

        Args:
            timeout: seconds that a process waits for the others before it gives up.

        Raises:
            RankError: they do not come.

        """
        self.rank, self.number = _variable("RANK"), _variable("WORLD_SIZE")
        # NCCL wants a GPU for each process; those that share one send from the CPU.
        gpus = torch.cuda.device_count() >= _variable("LOCAL_WORLD_SIZE")
        self._backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        with _collective():
            dist.init_process_group(
                self._backend,
                store=_store(),
                rank=self.rank,
                world_size=self.number,
                timeout=datetime.timedelta(seconds=timeout),
            )
        atexit.register(dist.destroy_process_group)

    def gather(self, values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The vector of each process, by rank; `lengths` are their lengths.

        Raises:
            RankError: another process has ended, or did not answer in time.

        """
        longest = max(lengths)
        message = torch.cat([values, values.new_zeros(longest - len(values))])
        if self._backend == "gloo":
            message = message.cpu()
        rows = [torch.empty_like(message) for _ in lengths]
        with _collective():
            dist.all_gather(rows, message)
        return [row[:n].to(values.device) for row, n in zip(rows, lengths, strict=True)]

    def exchange(self, value: T) -> list[T]:
        """The value of each process, by rank; values can be pickled.

        Raises:
            RankError: another process has ended, or did not answer in time.

        """
        values: list[T] = [value] * self.number
        with _collective():
            dist.all_gather_object(values, value)
        return values


def is_launched() -> bool:
    """Whether torchrun has started this process."""
    return dist.is_torchelastic_launched()


def is_leader() -> bool:
    """Whether this is the process that writes and prints."""
    return not is_launched() or _variable("RANK") == 0


def restarts() -> int:
    """How often torchrun has started the processes of this run again."""
    return _variable("TORCHELASTIC_RESTART_COUNT") if is_launched() else 0


@functools.cache
def ranks(timeout: float) -> Ranks:
    """The processes of this run; they wait `timeout` seconds for one another."""
    return Torchrun(timeout) if is_launched() and _variable("WORLD_SIZE") > 1 else Alone()


def make_workers(threads: int, timeout: float, task_chunk: int = 0) -> Workers:
    """Workers of this process; 0 threads take its share of the cores of the host."""
    if not threads and is_launched():
        threads = max(1, available_cores() // _variable("LOCAL_WORLD_SIZE"))
    return Workers(threads, ranks(timeout), task_chunk)


def first_to_tell() -> bool:
    """Whether no other process has told of an error since the processes were started."""
    if not is_launched():
        return True
    try:
        return bool(_store().add("told", 1) == 1)
    except RuntimeError:
        return True  # the store has gone: better twice than not at all


def described() -> str:
    """The process before a message, `rank 1 on HOST: `; empty without torchrun."""
    return f"rank {_variable('RANK')} on {socket.gethostname()}: " if is_launched() else ""


def note_begin() -> None:
    """Notes that the run has begun; the note outlives the processes, but not torchrun."""
    if is_launched():
        _kept().set("begun", "1")


def has_begun_before() -> bool:
    """Whether torchrun has started the processes again, and the run had begun before."""
    return restarts() > 0 and bool(_kept().check(["begun"]))


@functools.cache
def _kept() -> Store:
    """The store of torchrun, which it keeps when it starts the processes again."""
    store: Store = next(rendezvous("env://"))[0]
    return store


@functools.cache
def _store() -> PrefixStore:
    """Where the processes of this attempt meet.

    The store has the addresses of processes that are gone: each attempt has names of its own.
    """
    return PrefixStore(f"attempt-{restarts()}", _kept())


def _variable(name: str) -> int:
    """A number that torchrun tells in the environment."""
    return int(os.environ[name])


@contextlib.contextmanager
def _collective() -> Iterator[None]:
    """In the block, an error of torch.distributed is a `RankError`."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RankError(f"lost another process of torchrun: {reason}") from error
