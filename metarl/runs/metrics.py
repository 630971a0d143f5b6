"""metrics.jsonl, the source of truth of a run: one JSON object of numbers for each iteration."""

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from metarl.support.errors import InUseError, UsageError
from metarl.support.files import expect_writable, read_bytes, replace_durably
from metarl.support.schema import LARGEST_INTEGER
from metarl.support.text import json_text

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"

Metrics = dict[str, float]


def read_metrics(folder: Path) -> list[Metrics]:
    """Reads a run's metrics so far, without a last line that a crash cut off.

    Raises:
        UsageError: a line is damaged.

    """
    metrics, damaged = _read(folder)
    if damaged:
        raise UsageError(
            f"{folder / METRICS} is damaged: {damaged[0]}; `metarl train --resume` continues the "
            "run without that line, or delete it"
        )
    return metrics


def read_intact_metrics(folder: Path) -> list[Metrics]:
    """Reads a run's metrics so far, without damaged lines, of which a warning tells."""
    metrics, damaged = _read(folder)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        logger.warning("%s is damaged: %s%s; left out", folder / METRICS, damaged[0], more)
    return metrics


def _read(folder: Path) -> tuple[list[Metrics], list[str]]:
    """The lines that are intact, and what is wrong with the others."""
    path = folder / METRICS
    lines = read_bytes(path).split(b"\n")[:-1] if path.exists() else []
    metrics: list[Metrics] = []
    damaged = []
    for number, line in enumerate(lines, 1):
        try:
            parsed = _parsed(line)
            if metrics and parsed["iteration"] <= metrics[-1]["iteration"]:
                raise ValueError("its iteration is not after that of the line before")
            metrics.append(parsed)
        except (ValueError, RecursionError) as error:
            damaged.append(f"line {number}: {' '.join(str(error).split())}")
    return metrics, damaged


def _parsed(line: bytes) -> Metrics:
    """The metrics of a line."""
    metrics = json.loads(line)
    if not isinstance(metrics, dict):
        raise ValueError("it is not a JSON object")
    # JSON has no NaN: null stands for a number that does not exist.
    metrics = {name: math.nan if x is None else x for name, x in metrics.items()}
    if not all(map(_is_number, metrics.values())):
        raise ValueError("it is not a JSON object of numbers")
    if type(iteration := metrics.get("iteration")) is not int or iteration < 1:
        raise ValueError('it has no "iteration"')
    return metrics


def _is_number(value: object) -> bool:
    # Not isinstance: a bool is an int. A run has a million of these.
    return type(value) is float or (type(value) is int and abs(value) < LARGEST_INTEGER)


class MetricsFile:
    """metrics.jsonl of a run that is being trained.

    When the disk fails, the lines are kept until it can be written again, which a checkpoint
    insists on. When the file is deleted or replaced, it is written again.
    """

    def __init__(
        self,
        folder: Path,
        kept: Iterable[Mapping[str, float]],
        expect_own: Callable[[], None] = lambda: None,
    ):
        """Replaces the file by these lines.

        `expect_own` is called when the file is not in its place, and raises if another process has
        taken the folder.

        Raises:
            UsageError: it cannot be written.

        """
        self._path = folder / METRICS
        self._expect_own = expect_own
        self._unwritten = b""
        self._failed = False
        self._open(b"".join(map(_line, kept)))

    def write(self, metrics: Mapping[str, float]) -> None:
        """Appends a line, now or when the disk can be written again."""
        self._unwritten += _line(metrics)
        try:
            self._append()
        except InUseError:
            raise
        except (OSError, UsageError) as error:
            if not self._failed:
                logger.warning(
                    "%s cannot be written (%s); the run goes on to its next checkpoint",
                    self._path,
                    getattr(error, "strerror", None) or error,
                )
            self._failed = True

    def sync(self) -> None:
        """Waits until all lines are on the disk.

        Raises:
            UsageError: they cannot be written.

        """
        with expect_writable(self._path):
            self._append()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _open(self, content: bytes) -> None:
        replace_durably(self._path, content)
        with expect_writable(self._path):
            # Unbuffered: what was written is known, also after an error.
            self._file = open(self._path, "r+b", buffering=0)  # noqa: SIM115 (until close)
            self._size = self._file.seek(0, os.SEEK_END)

    def _append(self) -> None:
        if not self._is_in_place():
            self._expect_own()
            logger.warning("%s was deleted or replaced: it is written again", self._path)
            deleted = self._file
            deleted.seek(0)
            self._open(deleted.read(self._size))
            deleted.close()
        while self._unwritten:
            # After an error, a part of a line may follow what is known to be whole.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            line, newline, others = self._unwritten.partition(b"\n")
            whole = line + newline
            if self._file.write(whole) < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._size += len(whole)
            self._unwritten = others

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False


def _line(metrics: Mapping[str, float]) -> bytes:
    return json_text(metrics).encode() + b"\n"


def missing_iterations(metrics: Sequence[Metrics], iteration: int) -> int:
    """How many of the iterations from 1 to `iteration` have no metrics."""
    return iteration - len({m["iteration"] for m in metrics if m["iteration"] <= iteration})
