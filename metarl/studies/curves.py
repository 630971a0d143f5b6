"""Figures of run folders for a paper, and their numbers."""

import csv
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.statistics import STATISTICS, interval, stratified_indices
from metarl.learners.few_shot import FewShotConfig
from metarl.learners.maml_config import MAMLConfig
from metarl.learners.rl2 import RL2Config
from metarl.runs.folder import CONFIG, EVALUATION, read_evaluation, read_options
from metarl.runs.metrics import METRICS, Metrics, read_metrics
from metarl.support.errors import UsageError
from metarl.support.files import expect_writable
from metarl.support.schema import expect


class _Named(TypedDict):
    """The options by which a line is named."""

    seed: int
    learner: NotRequired[str]
    algorithm: NotRequired[str | None]
    family: NotRequired[str | None]
    problem: NotRequired[str | None]


OF_NO_LINE = frozenset(("seed", "init_from", *_Named.__annotations__)).union(
    MAMLConfig.changeable, RL2Config.changeable, FewShotConfig.changeable
)
"""Options in which the runs of a line may differ, and those by which it is named."""

MEAN = re.compile(r"(?P<split>[^/]+)/step_(?P<step>\d+)/mean")
"""A tag of an evaluation in training, of all tasks."""

NAME_WIDTH = 55
"""Characters of a line's name that fit side by side below a panel."""
ROW = 0.2
"""Inches that a row of names takes."""


@dataclass(frozen=True)
class Run:
    """The contents of a run folder that figures show."""

    path: Path
    name: str
    """Name of the line that the run belongs to: `algorithm, family`."""
    seed: int
    metrics: list[dict[str, float]]
    returns: np.ndarray | None  # [steps + 1, tasks]; None without evaluation.json
    measure: str = "return"
    """What the curves show: accuracy, for example, in few-shot learning."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those on which its numbers depend, without the seed and what its name tells."""

    def differs_in(self, other: Self) -> list[str]:
        """The options that differ; one that another version did not have is as it was."""
        own, others = self.options, other.options
        return [name for name in own if name in others and own[name] != others[name]]


@dataclass(frozen=True)
class Line:
    """Runs that differ only in their seeds."""

    name: str
    runs: list[Run]

    @property
    def measure(self) -> str:
        """What the curves show."""
        return self.runs[0].measure

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
        UsageError: it is not a run folder, or its evaluation lacks the split.

    """
    options = read_options(path)
    try:
        expect(options, _Named)
    except ValueError as error:
        raise UsageError(f"{path / CONFIG} is damaged: {error}") from error
    metrics = read_metrics(path)
    tags = metrics[0] if metrics else {}
    measures = [tag.removesuffix("/before") for tag in tags if tag.endswith("/before")]
    measure = (measures or ["return"])[0]
    _expect_tags(metrics, [f"{measure}/before", f"{measure}/after"], path)
    returns = None
    if (evaluation := read_evaluation(path)) is not None:
        if split not in evaluation["splits"]:
            raise UsageError(f"{path / EVALUATION} has no split {split}")
        tasks = evaluation["splits"][split]["tasks"]
        returns = np.array([task["returns"] for task in tasks], dtype=np.float64).T
    what = options.get("family") or options.get("problem") or path.name
    learned_by = options.get("algorithm") or options.get("learner")
    name = f"{learned_by}, {what.rpartition(':')[2]}"
    kept = {n: value for n, value in options.items() if n not in OF_NO_LINE}
    return Run(path, name, options["seed"], metrics, returns, measure, kept)


def _expect_tags(metrics: Sequence[Metrics], tags: Sequence[str], path: Path) -> None:
    """Checks that every iteration has what the curves show."""
    for m in metrics:
        if missing := [tag for tag in tags if tag not in m]:
            raise UsageError(
                f"{path / METRICS} is damaged: iteration {m['iteration']} has no {missing[0]}; "
                "delete its line"
            )


def group(runs: Sequence[Run]) -> list[Line]:
    """Groups the runs that differ in their seeds alone into a line.

    Names omit the family if all lines share it, and have the options in which lines differ that
    would otherwise have the same name.

    Raises:
        UsageError: two runs of one line have the same seed.

    """
    named: dict[str, list[list[Run]]] = {}
    for run in runs:
        alike = named.setdefault(run.name, [])
        own = next((line for line in alike if not any(map(run.differs_in, line))), [])
        for other in own:
            if other.seed == run.seed:
                raise UsageError(
                    f"{other.path} and {run.path} are both {run.name}, seed {run.seed}: the runs "
                    "of a line must differ in their seeds"
                )
        if not own:
            alike.append(own)
        own.append(run)
    families = {name.rpartition(", ")[2] for name in named}
    shorten = len(families) == 1 and sum(map(len, named.values())) > 1
    lines = []
    for name, alike in named.items():
        short = name.rpartition(", ")[0] if shorten else name
        of_runs = [run for line in alike for run in line]
        varied = {n: None for one in of_runs for other in of_runs for n in one.differs_in(other)}
        for line in alike:
            options = {n: value for run in line for n, value in run.options.items()}
            values = (f"{n} {options[n]}" for n in varied if n in options)
            lines.append(Line(", ".join((short, *values)), line))
    return lines


def training_curves(line: Line) -> dict[str, np.ndarray]:
    """Curves over the iterations that all runs have.

    Returns:
        `before` and `after` [runs, iterations]; `env_steps` [iterations], means over the runs.

    """
    tags = [f"{line.measure}/{end}" for end in ("before", "after")]
    x, (before, after) = _columns([run.metrics for run in line.runs], tags)
    return {"env_steps": x, "before": before, "after": after}


def held_out_curves(line: Line, split: str = "test") -> dict[str, np.ndarray]:
    """Curves over the evaluations in training that all runs have, before and after adaptation.

    Returns:
        What `training_curves` returns, without a column if there was no evaluation.

    """
    ends = [held_out_step(run, split) for run in line.runs]
    last = min(end for end in ends if end is not None)
    tags = [f"{split}/step_{k}/mean" for k in (0, last)]
    evaluated = [[m for m in run.metrics if {*tags} <= m.keys()] for run in line.runs]
    x, (before, after) = _columns(evaluated, tags)
    return {"env_steps": x, "before": before, "after": after}


def held_out_step(run: Run, split: str = "test") -> int | None:
    """The last inner step of the evaluations in training; None if there was none."""
    found = [MEAN.fullmatch(tag) for metrics in run.metrics for tag in metrics]
    steps = [int(tag["step"]) for tag in found if tag and tag["split"] == split]
    return max(steps, default=None)


def _columns(
    runs: Sequence[Sequence[Mapping[str, float]]], tags: Sequence[str]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """x [rows], the mean of the runs, and the values of each tag [runs, rows], where all have rows.

    x is in environment steps, or in iterations of runs that take none.
    """
    of_all = set.intersection(*({m["iteration"] for m in run} for run in runs))
    rows = [[m for m in run if m["iteration"] in of_all] for run in runs]
    x = "env_steps" if all("env_steps" in m for run in runs for m in run) else "iteration"

    def column(name: str) -> np.ndarray:
        return np.array([[m[name] for m in run] for run in rows])

    return column(x).mean(0), [column(tag) for tag in tags]


def adaptation_curve(evaluation: Evaluation) -> np.ndarray:
    """(mean, low, high) after each inner step: [steps + 1, 3]; runs are strata of the bootstrap."""
    tasks = evaluation.returns.shape[1] // evaluation.runs
    resampled = stratified_indices(np.random.default_rng(0), evaluation.runs, tasks)
    mean = STATISTICS["mean"]
    return np.array([(mean(r), *interval(r, mean, resampled)) for r in evaluation.returns])


def draw(lines: Sequence[Line], title: str = "") -> Figure:
    """Draws the measure in training, and on held-out tasks over inner steps.

    Where a run was not evaluated, held-out tasks are those of the evaluations in training.

    Raises:
        UsageError: the runs have nothing to draw, or measures that differ.

    """
    if len({line.measure for line in lines}) > 1:
        named = ", ".join(f"{line.name}: {line.measure}" for line in lines)
        raise UsageError(f"runs with different measures cannot be drawn in one figure: {named}")
    evaluated = [line for line in lines if line.evaluation() is not None]
    others = [line for line in lines if line.evaluation() is None]
    panels: list[Callable[[Axes], None]] = []
    if any(run.metrics for line in lines for run in line.runs):
        panels.append(lambda axes: _draw_training(axes, lines))
    if any(held_out_step(run) is not None for line in others for run in line.runs):
        panels.append(lambda axes: _draw_held_out(axes, lines, others))
    if evaluated:
        panels.append(lambda axes: _draw_adaptation(axes, lines))
    if not panels:
        raise UsageError(f"{lines[0].runs[0].path} has nothing to draw yet: no iteration is done")
    figure = Figure((5.5 * len(panels), 4.5))
    rows = 0
    for axes, draw_panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):  # noqa: B905
        draw_panel(axes)
        rows = max(rows, _legend_below(axes))
    below = ROW * (rows + 1)
    figure.set_figheight(4.5 + below)
    share = below / (4.5 + below)
    figure.set_layout_engine("constrained", rect=(0, share, 1, 1 - share))
    figure.suptitle(title)
    return figure


def _legend_below(axes: Axes) -> int:
    """Names the lines below the axes, whose size must not depend on the names; returns its rows."""
    handles, names = axes.get_legend_handles_labels()
    texts = [textwrap.fill(name, NAME_WIDTH) for name in names]
    if texts:
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
        axes.legend(handles, texts, fontsize="small", **place).set_in_layout(False)
    return sum(len(text.splitlines()) for text in texts)


def _style(i: int) -> dict[str, Any]:
    """The look of the i-th line."""
    return {"color": f"C{i % 10}", "linestyle": "-" if i < 10 else "--"}


def _draw_training(axes: Axes, lines: Sequence[Line]) -> None:
    for i, line in enumerate(lines):
        if any(run.metrics for run in line.runs):
            _draw_curves(axes, line, training_curves(line), i, alone=len(lines) == 1)
    _label(axes, lines)
    axes.set_title("tasks of training; dotted: before; thin: each seed")


def _draw_held_out(axes: Axes, lines: Sequence[Line], drawn: Sequence[Line]) -> None:
    for i, line in enumerate(lines):
        if line in drawn and all(held_out_step(run) is not None for run in line.runs):
            _draw_curves(axes, line, held_out_curves(line), i, alone=len(lines) == 1)
    _label(axes, lines)
    axes.set_title("test tasks; dotted: before; thin: each seed")


def _label(axes: Axes, lines: Sequence[Line]) -> None:
    metrics = next(run.metrics for line in lines for run in line.runs if run.metrics)
    steps = "env_steps" in metrics[0]
    axes.set_xlabel("environment steps, millions" if steps else "iterations")
    axes.set_ylabel(f"{lines[0].measure} after adaptation")


def _draw_curves(
    axes: Axes, line: Line, curves: Mapping[str, np.ndarray], i: int, alone: bool
) -> None:
    """The mean of the seeds after adaptation, dotted before it, and each seed after it, thin."""
    style = _style(i)
    scale = 1e6 if any("env_steps" in m for run in line.runs for m in run.metrics) else 1
    x, after = curves["env_steps"] / scale, curves["after"]
    axes.plot(x, after.mean(0), label=line.name, **style)
    before = f"{line.name}, before" if alone else None
    axes.plot(x, curves["before"].mean(0), ":", color=style["color"], label=before)
    if len(line.runs) > 1:
        axes.plot(x, after.T, color=style["color"], linewidth=0.7, alpha=0.5)


def _draw_adaptation(axes: Axes, lines: Sequence[Line]) -> None:
    for i, line in enumerate(lines):
        style, evaluation = _style(i), line.evaluation()
        if evaluation is None:
            continue
        mean, low, high = adaptation_curve(evaluation).T
        if len(line.runs) > 1:
            axes.plot(line.means().T, color=style["color"], linewidth=0.7, alpha=0.5)
        if len(mean) == 1:  # an oracle, which has nothing to adapt: its level
            axes.axhline(mean[0], label=line.name, color=style["color"], linestyle="--")
            axes.axhspan(low[0], high[0], alpha=0.15, color=style["color"])
        else:
            errors = np.array([mean - low, high - mean])
            axes.errorbar(range(len(mean)), mean, errors, capsize=3, label=line.name, **style)
    axes.set_xlabel("inner steps (episodes, for rl2)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(lines[0].measure)
    axes.set_title("test tasks, 95 % interval over tasks; thin: each seed")


def plot(*runs: str | Path, out: str | Path | None = None, title: str = "") -> Figure:
    """The figure of `metarl plot`; with `out`, it is also written, and its numbers.

    Args:
        runs: run folders; those that differ only in their seeds are one line.
        out: name of the files without the suffix: .png, .pdf and .csv.
        title: of the figure.

    Raises:
        UsageError: there is no run, a folder is not that of one, has nothing to draw, or cannot be
            written.

    """
    if not runs:
        raise UsageError("plot needs at least one run folder")
    lines = group([read_run(Path(path)) for path in runs])
    if out is not None:
        write_figures(lines, Path(out), title)
    return draw(lines, title)


SUFFIXES = (".png", ".pdf", ".csv")
"""Of the files of figures; the last one holds their numbers."""


def write_figures(lines: Sequence[Line], out: Path, title: str = "") -> list[Path]:
    """Writes `out`.png, .pdf and .csv, and returns their paths; `out` may have one of the suffixes.

    Raises:
        UsageError: a file cannot be written, or the evaluations of a line differ in their inner
            steps or number of tasks.

    """
    if not out.name:
        raise UsageError(f"--out {out} is no name of a file")
    figure = draw(lines, title)
    stem = out.stem if out.suffix in SUFFIXES else out.name
    paths = [out.with_name(f"{stem}{suffix}") for suffix in SUFFIXES]
    with expect_writable(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    for path in paths[:2]:
        with expect_writable(path), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a title may have any characters
            figure.savefig(path, dpi=150)
    with expect_writable(paths[2]), open(paths[2], "w", newline="") as file:
        csv.writer(file).writerows(rows(lines))
    return paths


def rows(lines: Sequence[Line]) -> Iterator[tuple[object, ...]]:
    """Rows of the .csv: a header, the iterations of each seed, the inner steps of each line."""
    yield "line", "seed", "curve", "x", "value", "low", "high"
    for line in lines:
        for run in line.runs:
            for m in run.metrics:
                x = m.get("env_steps", m["iteration"])
                for curve in ("before", "after"):
                    yield line.name, run.seed, curve, x, m[f"{line.measure}/{curve}"], "", ""
        if (evaluation := line.evaluation()) is not None:
            for k, row in enumerate(adaptation_curve(evaluation)):
                yield line.name, "all", "inner steps", k, *row
