"""Time measurement by named parts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by name; the time of a nested block counts only for the inner name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = self._begin = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._begin

    def metrics(self) -> dict[str, float]:
        """The seconds of each part as `time/<name>`, and the total as `time/whole`."""
        parts = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        return parts | {"time/whole": self.total}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to `name`."""
        self._switch()
        self._running.append(name)
        yield
        self._switch()
        self._running.pop()

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
