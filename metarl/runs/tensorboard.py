"""Files of events for TensorBoard, and what it shows besides scalars, text and figures."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

logger = logging.getLogger(__name__)

EVENTS = "events.out.tfevents."
"""What the name of a file of events begins with; the seconds of the clock follow."""
EVALUATION_EVENTS = ".evaluation"
"""What the name of a file of `metarl evaluate` ends with."""

Charts = dict[str, list[str | list[str]]]
"""Custom scalars by title: the kind of the chart (Multiline or Margin) and its tags."""

# PyTorch has no types for `hparams`, nor for `_get_file_writer` below.
_hparams: Callable[
    [Mapping[str, bool | int | float | str], Mapping[str, float]], tuple[Summary, ...]
] = hparams

FIRST = ("meta_batch_size", "inner_lr", "seed", "algorithm", "family")
"""Hyperparameters that come before others, from the last one. TensorBoard shows five columns."""


class _Records:
    """Writes the records of a file at once, in place of the thread of TensorBoard's writer.

    An error of the disk ends the file with a warning, because training should go on.
    """

    def __init__(self, writer: "_RecordWriter", *_: object):
        self._writer, self._failed = writer, False

    def write(self, record: bytes) -> None:
        if self._failed:
            return
        try:
            self._writer.write(record)
        except OSError as error:
            self._failed = True
            logger.warning(
                "TensorBoard gets no more of this run (%s); metrics.jsonl has all numbers",
                error.strerror or error,
            )

    def flush(self) -> None:
        """Does nothing: every record is written."""

    def close(self) -> None:
        with suppress(OSError):
            self._writer.close()


class _RecordWriter(Protocol):
    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


@contextmanager
def _records_at_once() -> Iterator[None]:
    """In the block, writers of TensorBoard have no threads, whose errors would be tracebacks."""
    # Not a writer of our own: W&B replaces TensorBoard's.
    original = event_file_writer._AsyncWriter
    event_file_writer._AsyncWriter = _Records
    try:
        yield
    finally:
        event_file_writer._AsyncWriter = original


def open_events(folder: Path, suffix: str = "", after: int | None = None) -> SummaryWriter:
    """A writer of a new file of events, which TensorBoard reads after the others of the folder.

    Args:
        folder: of a run.
        suffix: of the file's name.
        after: the iteration after which the events come; TensorBoard drops later ones that it has
            read from a file before.

    """
    earlier = event_files(folder, suffix)
    with _records_at_once():
        purge = None if after is None else after + 1
        writer = SummaryWriter(str(folder), filename_suffix=suffix, purge_step=purge)
    files = event_files(folder, suffix)
    if files and files[-1] in earlier:  # the clock was set back, or the second is the same
        for number, path in enumerate(earlier):
            name = re.sub(r"\d+", f"{number:010d}", path.name, count=1)
            path.rename(path.with_name(name))
    return writer


def event_files(folder: Path, suffix: str = "") -> list[Path]:
    """The files of events whose names end with the suffix, in the order that TensorBoard reads."""
    found = sorted(folder.glob(f"{EVENTS}*{suffix}"))
    return [path for path in found if suffix or not path.name.endswith(EVALUATION_EVENTS)]


def cut_events(folder: Path, iteration: int) -> None:
    """Removes the events of iterations after `iteration`, and what a crash left of a record."""
    for path in event_files(folder):
        size, shown = 0, False
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            if event.step > iteration:
                break
            size += len(record) + 16  # its length and checksums
            shown |= event.HasField("summary")
        if not shown:
            path.unlink()
        elif size < path.stat().st_size:
            os.truncate(path, size)


def add_summary(writer: SummaryWriter, summary: Summary) -> None:
    """Adds a summary for which `SummaryWriter` has no method."""
    file_writer: Callable[[], FileWriter] = writer._get_file_writer
    file_writer().add_summary(summary)


def hyperparameters(options: Mapping[str, object]) -> tuple[Summary, Summary]:
    """The summaries that make a run's row in the table of hyperparameters.

    TensorBoard finds by itself which options differ between the runs, and puts these first, by
    their names: a space in front of a name moves it to the front. It would not look if a summary
    described the experiment, as that of `SummaryWriter.add_hparams` does. It shows the first five
    options, and beside them the newest values of the run's scalars, again the first five by name.
    """
    values = {
        " " * (FIRST.index(name) + 1 if name in FIRST else 0) + name: (
            value if isinstance(value, (bool, int, float, str)) else str(value)
        )
        for name, value in options.items()
    }
    _, *row = _hparams(values, {})
    start, end = row
    return start, end


def leading(metrics: Mapping[str, float], measure: str, held_out: str) -> dict[str, float]:
    """The scalars that TensorBoard shows first, in its time series and beside hyperparameters.

    Its pages are in the order of the names, so these repeat the curves that a run is judged by
    under names that come first.

    Args:
        metrics: those of an iteration.
        measure: for example return.
        held_out: the metric on held-out tasks after the last inner step.

    """
    before = f"{held_out.partition('/')[0]}/step_0/mean"
    names = {
        "after": f"{measure}/after",
        "before": f"{measure}/before",
        "held_out_after": held_out,
        "held_out_before": before,
    }
    return {f"adaptation/{own}": metrics[tag] for own, tag in names.items() if tag in metrics}


def layout(
    measure: str, inner_steps: int, splits: Sequence[str], evaluated: Iterable[str] = ()
) -> dict[str, Charts]:
    """The page of custom scalars.

    All charts are margins, which are never smoothed: a line in a band. Where it shows what
    adaptation gains, the band reaches from before adaptation to the line after it.

    Args:
        measure: for example return.
        inner_steps: the last inner step of the evaluations in training.
        splits: those that were evaluated in training.
        evaluated: those in the report of `metarl evaluate`.

    """
    training = {
        f"{measure}: line after, edge before": _margin(f"{measure}/after", f"{measure}/before"),
        f"gain of {measure}": _margin(f"{measure}/gain"),
    }
    held_out: Charts = {}
    for split in splits:
        steps = [f"{split}/step_{k}" for k in range(inner_steps + 1)]
        before, after = f"{steps[0]}/mean", f"{steps[-1]}/mean"
        held_out[f"{split}: line after, edge before"] = _margin(after, before)
        for k, step in enumerate(steps):
            held_out[f"{split}, step {k}, 95 % interval"] = _interval(step)
    report = {f"{split}, over inner steps": _interval(f"evaluation/{split}") for split in evaluated}
    pages = {
        "Adaptation": training,
        "Evaluations in training": held_out,
        "metarl evaluate": report,
    }
    # TensorBoard shows the margin charts of a category from the last to the first.
    return {title: dict(reversed(charts.items())) for title, charts in pages.items() if charts}


def _margin(tag: str, other: str | None = None) -> list[str | list[str]]:
    """A line, and a band from there to another one."""
    return ["Margin", [tag, other or tag, tag]]


def _interval(name: str) -> list[str | list[str]]:
    return ["Margin", [f"{name}/{end}" for end in ("mean", "low", "high")]]
