"""One run's folder: configuration, metrics, TensorBoard events, checkpoints and a lock."""

import itertools
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from metarl.evaluation.evaluation import judging_split
from metarl.runs.checkpoint import (
    checkpoints_in,
    clean_checkpoints,
    load_newest,
    prune_checkpoints,
    save_checkpoint,
)
from metarl.runs.lock import FolderLock
from metarl.runs.metrics import (
    METRICS,
    Metrics,
    MetricsFile,
    missing_iterations,
    read_intact_metrics,
)
from metarl.runs.sinks import Sinks
from metarl.runs.tensorboard import (
    add_summary,
    cut_events,
    event_files,
    hyperparameters,
    layout,
    leading,
    open_events,
)
from metarl.support.errors import UsageError
from metarl.support.files import expect_writable, read_json, replace_durably
from metarl.support.text import counted, json_text
from metarl.support.types import Json, State

logger = logging.getLogger(__name__)

CONFIG = "config.json"
EVALUATION = "evaluation.json"


class ConfigFile(TypedDict):
    """What metarl reads of config.json."""

    config: dict[str, Any]
    git_commit: NotRequired[str | None]


class TaskResult(TypedDict):
    """A task in evaluation.json."""

    returns: list[float]


class SplitResult(TypedDict):
    """A split in evaluation.json."""

    steps: list[dict[str, Any]]
    tasks: list[TaskResult]


class EvaluationFile(TypedDict):
    """What metarl reads of evaluation.json."""

    iteration: NotRequired[int]
    splits: dict[str, SplitResult]


def holds_run(folder: Path) -> bool:
    """Whether the folder holds a run: its options, or a checkpoint, which has them too."""
    return (folder / CONFIG).exists() or bool(checkpoints_in(folder / "checkpoints"))


def read_options(folder: Path) -> Json:
    """The options of a run, of config.json or, if it cannot be read, of the newest checkpoint.

    Raises:
        UsageError: it is not a run folder, or neither can be read.

    """
    remedy = "restore it from a copy, or delete it: newer checkpoints have the options too"
    try:
        if not (folder / CONFIG).exists():
            # Those of a sweep, and those of a comparison, which lie in a folder of each algorithm.
            levels = itertools.chain(folder.glob(f"*/{CONFIG}"), folder.glob(f"*/*/{CONFIG}"))
            inside = sorted(str(path.parent) for path in levels)
            hint = f"; there are runs in it: {' '.join(inside)}" if inside else ""
            raise UsageError(f"{folder} is not a run folder: it has no {CONFIG}{hint}")
        read: ConfigFile = read_json(folder / CONFIG, ConfigFile, remedy)
        return read["config"]
    except UsageError as error:
        state = load_newest(folder / "checkpoints")
        if state is None or "config" not in state:
            raise
        logger.warning("%s; the options are those of the newest checkpoint", error)
        options: Json = state["config"]
        return options


def read_evaluation(folder: Path) -> EvaluationFile | None:
    """The evaluation of a run; None if there is none.

    Raises:
        UsageError: evaluation.json cannot be read, or it is damaged.

    """
    if not (folder / EVALUATION).exists():
        return None
    remedy = "`metarl evaluate` writes it again"
    evaluation: EvaluationFile = read_json(folder / EVALUATION, EvaluationFile, remedy)
    for name, split in evaluation["splits"].items():
        lengths = {len(task["returns"]) for task in split["tasks"]}
        if len(lengths) != 1 or lengths == {0}:
            raise UsageError(
                f"{folder / EVALUATION} is damaged: the tasks of {name} differ in their "
                f"number of returns; {remedy}"
            )
    return evaluation


def evaluated_splits(folder: Path) -> list[str]:
    """The splits in evaluation.json of a run folder, in its order."""
    evaluation = read_evaluation(folder)
    return [] if evaluation is None else list(evaluation["splits"])


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
        self._is_new = not path.exists()
        self._writer: SummaryWriter | None = None
        self._metrics: MetricsFile | None = None
        self._sinks = Sinks()
        self._tried = False  # whether a checkpoint can be read
        self._lock = FolderLock(path)

    @property
    def has_run(self) -> bool:
        """Whether the folder holds a run."""
        return holds_run(self.path)

    @property
    def has_begun(self) -> bool:
        """Whether the run in the folder has done an iteration."""
        done = checkpoints_in(self.path / "checkpoints") or read_intact_metrics(self.path)
        return bool(done)

    def read_options(self) -> Json:
        """The options of the run; see `read_options`."""
        return read_options(self.path)

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
        iterations and unfinished files, which a crash left behind, are deleted.

        Raises:
            UsageError: a sink cannot begin the run; the folder is not changed. Or the folder
                cannot be written.

        """
        self._measure, self._inner_steps, self._splits = measure, inner_steps, splits
        # The sinks come first, because W&B copies only from writers that are created later.
        self._sinks.open(config["config"].get("sinks", ()), self.path, config["config"])
        with expect_writable(self.path, "run folder"):
            self._clean()
            replace_durably(self.path / CONFIG, (json_text(config, 2) + "\n").encode())
            kept = [m for m in read_intact_metrics(self.path) if m["iteration"] <= iteration]
            if missing := missing_iterations(kept, iteration):
                text = "%s has no metrics of %s before the checkpoint; the run goes on after it"
                logger.warning(text, self.path / METRICS, counted(missing, "iteration"))
            self._metrics = MetricsFile(self.path, kept, self._lock.keep)
            if iteration:
                cut_events(self.path, iteration)
            else:  # a run that died before its first checkpoint may have left events
                for events in event_files(self.path):
                    events.unlink()
        self._writer = open_events(self.path, after=iteration or None)
        for summary in hyperparameters(options or {}):
            add_summary(self._writer, summary)
        self._shown: set[str] | None = None
        self._lay_out({tag for metrics in kept for tag in metrics})
        if not iteration:
            self._writer.add_text("config", f"```json\n{json_text(config, 2)}\n```")

    def _clean(self) -> None:
        """Removes files that a crash left unfinished."""
        for name in (CONFIG, METRICS):
            for part in self.path.glob(f".{name}.*part"):
                part.unlink()
        clean_checkpoints(self.path / "checkpoints")

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

    def read_metrics(self) -> list[Metrics]:
        """Reads the metrics so far."""
        return read_intact_metrics(self.path)

    def write(self, metrics: Mapping[str, float]) -> None:
        """Appends one iteration to metrics.jsonl, to TensorBoard and to the sinks.

        Raises:
            InUseError: the lock was deleted, and another process has the folder since.

        """
        assert self._writer is not None, "open() comes first"
        assert self._metrics is not None
        self._lock.keep()
        self._metrics.write(metrics)
        held_out = f"{judging_split(self._splits)}/step_{self._inner_steps}/mean"
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
        """Writes a checkpoint; the metrics before it reach the disk first.

        The first one is tried: a learner of the user's own may have a state that cannot be read.

        Raises:
            UsageError: the disk cannot be written, or the state cannot be read again; older
                checkpoints are as before.

        """
        assert self._metrics is not None, "open() comes first"
        self._metrics.sync()
        save_checkpoint(self.path / "checkpoints", iteration, state, check=not self._tried)
        self._tried = True

    def saved_iterations(self) -> set[int]:
        """The iterations that have a checkpoint."""
        return {int(path.name) for path in checkpoints_in(self.path / "checkpoints")}

    def prune(self, keep: int, best: int | None) -> None:
        """Removes all but the newest `keep` checkpoints and that of iteration `best`."""
        with expect_writable(self.path / "checkpoints"):
            prune_checkpoints(self.path / "checkpoints", keep, best)

    def load(self) -> State | None:
        """Loads the newest intact checkpoint; None if there is no checkpoint."""
        return load_newest(self.path / "checkpoints")

    def close(self, failed: bool = False) -> None:
        """Closes the files, ends the run at the sinks (finished or failed), unlocks the folder."""
        if self._writer is not None:
            self._writer.close()
        if self._metrics is not None:
            self._metrics.close()
        self._sinks.close(failed)
        if failed and self._is_new and not self.has_run:
            self._lock.remove()
        self._lock.release()
