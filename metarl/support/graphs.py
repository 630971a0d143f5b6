"""Steps of a loop that a GPU replays without Python in between: CUDA graphs of torch and others."""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch

R = TypeVar("R")

WARM_UPS = 2
"""Calls before a function is captured, in which libraries compile, and reserve their memory."""


class Replayed(Generic[R]):
    """A function without arguments that is called again and again, on the same tensors.

    On a GPU the first calls run as they are. The next one is captured, and this and all later calls
    replay its kernels. So the function must change tensors in place: what it assigns to names is
    not seen by the next call. Its result is that of the captured call, whose tensors each call
    overwrites. It must run on a stream of its own (`own_stream`).

    What another library launches by `launched` divides the capture: torch's allocator would lose
    sight of a capture that warp, with its conditional loops, ends and resumes.
    """

    def __init__(self, function: Callable[[], R], captures: bool):
        """`captures`: whether to capture at all, for which a GPU is needed."""
        self._function, self._captures = function, captures
        self._calls = 0
        self._parts: list[Callable[[], None]] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> R:
        """Calls the function, or replays it."""
        self._calls += 1
        if not self._captures or self._calls <= WARM_UPS:
            return self._function()
        if not self._parts:
            self._result = self._captured()
        for part in self._parts:
            part()
        return self._result

    def wait(self) -> None:
        """Waits for the last replay: a graph must not be freed before."""
        if self._parts:
            torch.cuda.current_stream().synchronize()

    def divide(self, launch: Callable[[], None]) -> None:
        """Ends the graph that is captured, and begins another one after `launch`."""
        self._end()
        self._parts.append(launch)
        self._begin()

    def _captured(self) -> R:
        global _capturing
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize()
        gc.collect()
        _free_pools()
        gc.disable()  # what is freed while a graph is captured may be a part of another one
        _capturing = self
        try:
            self._begin()
            result = self._function()
            self._end()
        finally:
            _capturing = None
            gc.enable()
        return result

    def _begin(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def _end(self) -> None:
        assert self._graph is not None
        self._graph.capture_end()
        self._parts.append(self._graph.replay)


def _free_pools() -> None:
    """Frees what torch keeps of graphs that are gone, before it is more than what is free.

    No other graph gets it, and warp, which has an allocator of its own, finds the GPU full.
    """
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if kept > torch.cuda.mem_get_info()[0]:
        torch.cuda.empty_cache()


_capturing: Replayed[Any] | None = None
"""What is being captured: one at a time."""


def launched(launch: Callable[[], None]) -> None:
    """Launches kernels of another library than torch, on torch's current stream.

    While a graph is captured they are not launched, but become a part of what is replayed.
    """
    if _capturing is None:
        launch()
    else:
        _capturing.divide(launch)


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """A stream beside the default one, on which nothing can be captured; on a CPU, nothing."""
    if device.type != "cuda":
        yield
        return
    stream, outer = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(outer)
    with torch.cuda.stream(stream):
        yield
    outer.wait_stream(stream)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
