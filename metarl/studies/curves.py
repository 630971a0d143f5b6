"""Figures of run folders for a paper, and their numbers."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.statistics import STATISTICS, interval, stratified_indices
from metarl.runs.folder import CONFIG, EVALUATION, METRICS
from metarl.support.errors import UsageError


@dataclass(frozen=True)
class Run:
    """The contents of a run folder that figures show."""

    path: Path
    name: str
    """Name of the line that the run belongs to: `algorithm, family`."""
    seed: int
    metrics: list[dict[str, float]]
    returns: np.ndarray | None  # [steps + 1, tasks]; None without evaluation.json


@dataclass(frozen=True)
class Line:
    """Runs that differ only in their seeds."""

    name: str
    runs: list[Run]

    def evaluation(self) -> Evaluation | None:
        """The evaluation of the tasks of all runs; None if a run has no evaluation.json.

        Raises:
            UsageError: the evaluations differ in their inner steps or number of tasks.

        """
        returns = [run.returns for run in self.runs]
        whole = [own for own in returns if own is not None]
        if len(whole) < len(returns):
            return None
        if len({own.shape for own in whole}) > 1:
            each = zip(self.runs, whole, strict=True)
            shapes = ", ".join(f"{run.path} {own.shape}" for run, own in each)
            raise UsageError(f"evaluations of {self.name} differ in [steps + 1, tasks]: {shapes}")
        return Evaluation("test", {}, np.concatenate(whole, axis=1), runs=len(whole))

    def means(self) -> np.ndarray:
        """Mean over the held-out tasks of each run: [runs, steps + 1]."""
        return np.array([run.returns.mean(1) for run in self.runs if run.returns is not None])


def read_run(path: Path, split: str = "test") -> Run:
    """Reads a run folder.

    Raises:
        UsageError: it is not a run folder, it has no returns, or its evaluation lacks the split.

    """
    if not (path / CONFIG).exists():
        raise UsageError(f"{path} is not a run folder: it has no {CONFIG}")
    config = json.loads((path / CONFIG).read_text())["config"]
    if "family" not in config:
        raise UsageError(f"{path} is not a run on a task family: it has no returns to draw")
    lines = (path / METRICS).read_text().split("\n")[:-1] if (path / METRICS).exists() else []
    returns = None
    if (path / EVALUATION).exists():
        evaluation = json.loads((path / EVALUATION).read_text())
        if split not in evaluation["splits"]:
            raise UsageError(f"{path / EVALUATION} has no split {split}")
        tasks = evaluation["splits"][split]["tasks"]
        returns = np.array([task["returns"] for task in tasks]).T
    family = config["family"].rpartition(":")[2]
    name = f"{config.get('algorithm') or config['learner']}, {family}"
    return Run(path, name, config["seed"], [json.loads(line) for line in lines], returns)


def group(runs: Sequence[Run]) -> list[Line]:
    """Groups the runs of each algorithm and family into a line.

    Names omit the family if all lines share it.

    Raises:
        UsageError: two runs of one line have the same seed.

    """
    named: dict[str, list[Run]] = {}
    for run in runs:
        own = named.setdefault(run.name, [])
        for other in own:
            if other.seed == run.seed:
                raise UsageError(
                    f"{other.path} and {run.path} are both {run.name}, seed {run.seed}: the runs "
                    "of a line must differ in their seeds"
                )
        own.append(run)
    families = {name.rpartition(", ")[2] for name in named}
    shorten = len(families) == 1 and len(named) > 1
    return [Line(name.rpartition(", ")[0] if shorten else name, own) for name, own in named.items()]


def training_curves(line: Line) -> dict[str, np.ndarray]:
    """Curves over the iterations that all runs have.

    Returns:
        `before` and `after` [runs, iterations]; `env_steps` [iterations], means over the runs.

    """
    number = min(len(run.metrics) for run in line.runs)

    def column(name: str) -> np.ndarray:
        return np.array([[m[name] for m in run.metrics[:number]] for run in line.runs])

    return {
        "env_steps": column("env_steps").mean(0),
        "before": column("return/before"),
        "after": column("return/after"),
    }


def adaptation_curve(evaluation: Evaluation) -> np.ndarray:
    """(mean, low, high) after each inner step: [steps + 1, 3]; runs are strata of the bootstrap."""
    tasks = evaluation.returns.shape[1] // evaluation.runs
    resampled = stratified_indices(np.random.default_rng(0), evaluation.runs, tasks)
    mean = STATISTICS["mean"]
    return np.array([(mean(r), *interval(r, mean, resampled)) for r in evaluation.returns])


def draw(lines: Sequence[Line], title: str = "") -> Figure:
    """Draws the return over environment steps, and over inner steps on held-out tasks."""
    figure = Figure((11, 4.5), layout="constrained")
    training, adaptation = figure.subplots(1, 2)
    for i, line in enumerate(lines):
        style = {"color": f"C{i % 10}", "linestyle": "-" if i < 10 else "--"}
        if any(run.metrics for run in line.runs):
            curves = training_curves(line)
            steps, after = curves["env_steps"] / 1e6, curves["after"]
            training.plot(steps, after.mean(0), label=line.name, **style)
            training.fill_between(
                steps, after.min(0), after.max(0), alpha=0.15, color=style["color"]
            )
            before = f"{line.name}, before" if len(lines) == 1 else None
            training.plot(steps, curves["before"].mean(0), ":", color=style["color"], label=before)
        if (evaluation := line.evaluation()) is not None:
            mean, low, high = adaptation_curve(evaluation).T
            if len(line.runs) > 1:
                for own in line.means():
                    adaptation.plot(own, ".", color=style["color"], alpha=0.4)
            if len(mean) == 1:  # an oracle, which has nothing to adapt: its level
                adaptation.axhline(mean[0], label=line.name, color=style["color"], linestyle="--")
                adaptation.axhspan(low[0], high[0], alpha=0.15, color=style["color"])
            else:
                errors = np.array([mean - low, high - mean])
                adaptation.errorbar(
                    range(len(mean)), mean, errors, capsize=3, label=line.name, **style
                )
    training.set_xlabel("environment steps, millions")
    training.set_ylabel("return after adaptation")
    training.set_title("training, mean and range of the seeds; dotted: before")
    adaptation.set_xlabel("inner steps (episodes, for rl2)")
    adaptation.xaxis.set_major_locator(MaxNLocator(integer=True))
    adaptation.set_ylabel("return")
    adaptation.set_title("held-out tasks, 95 % interval over tasks; dots: seeds")
    for axes in (training, adaptation):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.suptitle(title)
    return figure


def write_figures(lines: Sequence[Line], out: Path, title: str = "") -> list[Path]:
    """Writes `out`.png, .pdf and .csv, and returns their paths.

    Raises:
        UsageError: a file cannot be written, or the evaluations of a line differ in their inner
            steps or number of tasks.

    """
    figure = draw(lines, title)
    paths = [out.with_name(f"{out.name}.{suffix}") for suffix in ("png", "pdf", "csv")]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1])
        with open(paths[2], "w", newline="") as file:
            csv.writer(file).writerows(rows(lines))
    except OSError as error:
        raise UsageError(f"{error.filename or out} cannot be written: {error.strerror}") from error
    return paths


def rows(lines: Sequence[Line]) -> Iterator[tuple[object, ...]]:
    """Rows of the .csv: a header, the iterations of each seed, the inner steps of each line."""
    yield "line", "seed", "curve", "x", "value", "low", "high"
    for line in lines:
        for run in line.runs:
            for m in run.metrics:
                for curve in ("before", "after"):
                    yield line.name, run.seed, curve, m["env_steps"], m[f"return/{curve}"], "", ""
        if (evaluation := line.evaluation()) is not None:
            for k, row in enumerate(adaptation_curve(evaluation)):
                yield line.name, "all", "inner steps", k, *row
