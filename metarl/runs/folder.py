"""One run's folder: configuration, metrics, TensorBoard events, checkpoints and a lock."""

import fcntl
import json
import logging
import math
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from metarl.runs.checkpoint import load_newest, prune_checkpoints, save_checkpoint
from metarl.runs.sinks import Sinks
from metarl.runs.tensorboard import add_summary, hyperparameters, layout, leading
from metarl.support.errors import InUseError, UsageError
from metarl.support.files import replace_durably
from metarl.support.text import json_text
from metarl.support.types import Json, State

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
CONFIG = "config.json"
EVALUATION = "evaluation.json"
LOCK = "lock"


def is_in_use(path: Path) -> bool:
    """Whether a process, perhaps on another machine, trains in the folder."""
    if not (path / LOCK).exists():
        return False
    with open(path / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Reads a run's metrics so far, without a last line that a crash cut off."""
    file = path / METRICS
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    # JSON has no NaN: null stands for a number that does not exist.
    read = (json.loads(line) for line in lines)
    return [{n: math.nan if x is None else x for n, x in metrics.items()} for metrics in read]


def evaluated_splits(path: Path) -> list[str]:
    """The splits in evaluation.json of a run folder, in its order."""
    file = path / EVALUATION
    return list(json.loads(file.read_text())["splits"]) if file.exists() else []


class RunFolder:
    """One run's folder: configuration, metrics, TensorBoard events, checkpoints and a lock.

    metrics.jsonl is the source of truth; TensorBoard shows the same numbers under the same names.
    """

    def __init__(self, path: Path):
        """Locks the folder, and creates it if it does not exist.

        Raises:
            UsageError: the folder cannot be written, or another process uses it.

        """
        self.path = path
        self._writer: SummaryWriter | None = None
        self._sinks = Sinks()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / LOCK, "a+")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise UsageError(f"run folder {path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "another process"
            self._lock.close()
            raise InUseError(f"run folder {path} is in use by {owner}") from error
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._lock.flush()

    @property
    def has_run(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / CONFIG).exists()

    def read_config(self) -> Json:
        """Reads config.json."""
        config: Json = json.loads((self.path / CONFIG).read_text())
        return config

    def open(
        self,
        config: Json,
        iteration: int,
        measure: str,
        inner_steps: int,
        splits: Sequence[str] = ("test",),
        options: Mapping[str, object] | None = None,
    ) -> None:
        """Writes the configuration, and opens the metrics for the iterations after `iteration`.

        TensorBoard's page of custom scalars shows `measure` before and after adaptation, and after
        each of `inner_steps` steps on held-out tasks of each split that was evaluated. Its table of
        hyperparameters shows `options` and the newest values. Metrics and events of later
        iterations, which a crash left behind, are deleted.

        Raises:
            UsageError: a sink cannot begin the run; the folder is not changed.

        """
        self._measure, self._inner_steps, self._splits = measure, inner_steps, splits
        # The sinks come first, because W&B copies only from writers that are created later.
        self._sinks.open(config["config"].get("sinks", ()), self.path, config["config"])
        replace_durably(self.path / CONFIG, (json_text(config, 2) + "\n").encode())
        kept = [m for m in self.read_metrics() if m["iteration"] <= iteration]
        text = "".join(json_text(metrics) + "\n" for metrics in kept)
        replace_durably(self.path / METRICS, text.encode())
        self._metrics = open(self.path / METRICS, "a")  # noqa: SIM115 (held until close)
        if not iteration:  # a run that died before its first checkpoint may have left events
            for events in self.path.glob("events.out.tfevents.*"):
                events.unlink()
        self._writer = SummaryWriter(
            str(self.path), purge_step=iteration + 1 if iteration else None
        )
        for summary in hyperparameters(options or {}):
            add_summary(self._writer, summary)
        self._shown: set[str] | None = None
        self._lay_out({tag for metrics in kept for tag in metrics})
        if not iteration:
            self._writer.add_text("config", f"```json\n{json_text(config, 2)}\n```")

    def _lay_out(self, tags: Collection[str]) -> None:
        """Writes TensorBoard's page of custom scalars again, if there are new splits among them."""
        assert self._writer is not None
        found = {split for split in self._splits if f"{split}/step_0/mean" in tags}
        shown = (self._shown or set()) | found
        if shown == self._shown:
            return
        self._shown = shown
        splits = [split for split in self._splits if split in shown]
        pages = layout(self._measure, self._inner_steps, splits, evaluated_splits(self.path))
        self._writer.add_custom_scalars(pages)

    def read_metrics(self) -> list[dict[str, float]]:
        """Reads the metrics so far."""
        return read_metrics(self.path)

    def write(self, metrics: Mapping[str, float]) -> None:
        """Appends one iteration to metrics.jsonl, to TensorBoard and to the sinks."""
        assert self._writer is not None, "open() comes first"
        self._metrics.write(json_text(metrics) + "\n")
        self._metrics.flush()
        split = (*self._splits, "nothing")[0]
        held_out = f"{split}/step_{self._inner_steps}/mean"
        for name, value in (leading(metrics, self._measure, held_out) | dict(metrics)).items():
            if name != "iteration" and math.isfinite(value):
                self._writer.add_scalar(name, value, int(metrics["iteration"]))
        self._lay_out(metrics)
        self._sinks.write(metrics)

    def show(self, figures: Mapping[str, Figure], iteration: int) -> None:
        """Adds figures to TensorBoard under their tags."""
        assert self._writer is not None, "open() comes first"
        for tag, figure in figures.items():
            self._writer.add_figure(tag, figure, iteration, close=False)

    def say(self, name: str, text: str, iteration: int) -> None:
        """Adds a text to TensorBoard."""
        assert self._writer is not None, "open() comes first"
        self._writer.add_text(name, text, iteration)

    def save(self, iteration: int, state: State) -> None:
        """Writes a checkpoint; the metrics before it reach the disk first."""
        assert self._writer is not None, "open() comes first"
        os.fsync(self._metrics.fileno())
        self._writer.flush()
        save_checkpoint(self.path / "checkpoints", iteration, state)

    def prune(self, keep: int, best: int | None) -> None:
        """Removes all but the newest `keep` checkpoints and that of iteration `best`."""
        prune_checkpoints(self.path / "checkpoints", keep, best)

    def load(self) -> State | None:
        """Loads the newest intact checkpoint; None if there is no checkpoint."""
        return load_newest(self.path / "checkpoints")

    def close(self, failed: bool = False) -> None:
        """Closes the files, ends the run at the sinks (finished or failed), unlocks the folder."""
        if self._writer is not None:
            self._writer.close()
            self._metrics.close()
        self._sinks.close(failed)
        self._lock.close()
