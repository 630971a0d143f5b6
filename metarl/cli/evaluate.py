"""`metarl evaluate`, and the tables of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from metarl.cli.parsing import parse
from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.statistics import STATISTICS
from metarl.learners.learner import MetaLearner
from metarl.runs.clips import prefer_offscreen
from metarl.runs.folder import EVALUATION
from metarl.runs.report import (
    clips_before_and_after,
    evaluate_splits,
    task_name,
    write_report,
)
from metarl.runs.run import load, read_config
from metarl.support.errors import UsageError
from metarl.support.options import at_least
from metarl.tasks.task import select_tasks

WORST = 3
"""Tasks that are named for their low returns, and for their small gains."""


@dataclass(frozen=True)
class _Evaluate:
    """A run's policy on held-out tasks, in a table, in TensorBoard and in evaluation.json."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    splits: tuple[str, ...] = ()
    """Splits to look at; test, train and beyond if none is named."""
    tasks: int = 40
    """Tasks of each split."""
    steps: int | None = None
    """Inner steps; those of training if not given."""
    adaptations: int = 3
    """Adaptations to each task, each from its own rollouts: a single one may have been lucky."""
    test_later_lr: float | None = None
    """Steps after the first have this times the step size; that of the run if not given."""
    clips: int = 0
    """Tasks of the first split, those with the lowest returns, that are shown in moving pictures,
    before and after."""
    threads: int = 0
    """Threads; 0 is one for each core."""


def run(arguments: Sequence[str]) -> None:
    """Evaluates a run."""
    options = parse(_Evaluate, arguments, _Evaluate.__doc__, command="evaluate")
    at_least("--tasks", options.tasks, 1)
    at_least("--adaptations", options.adaptations, 1)
    at_least("--clips", options.clips, 0)
    prefer_offscreen()
    learner = load_meta_learner(options.run, options.test_later_lr, threads=options.threads)
    steps = learner.test_steps if options.steps is None else options.steps
    at_least("--steps", steps, 0)
    evaluations = evaluate_splits(
        learner, options.splits, options.tasks, steps, options.adaptations
    )
    clips = clips_before_and_after(learner, evaluations[0], options.clips, steps)
    data = write_report(options.run, learner, evaluations, clips)
    for evaluation in evaluations:
        _print_summary(evaluation)
        print()
    if "train_test_gap" in data:
        print(f"train less test after {steps} steps: {data['train_test_gap'][-1]:.3g}")
    learner.close()
    print(f"wrote {options.run / EVALUATION}; figures are in TensorBoard")


def load_meta_learner(run: Path, test_later_lr: float | None, **changes: Any) -> MetaLearner:
    """The learner of the run of a task family, with the step sizes that are asked for.

    Raises:
        UsageError: the run has no inner step size, or is not of a task family.

    """
    if test_later_lr is not None:
        if "test_later_lr" not in {field.name for field in fields(read_config(run))}:
            raise UsageError(f"--test-later-lr: {run} has no inner step size")
        changes["test_later_lr"] = test_later_lr
    learner = load(run, **changes)
    if not isinstance(learner, MetaLearner):
        raise UsageError(f"{run} is not the run of a policy on a task family")
    return learner


def _print_summary(evaluation: Evaluation) -> None:
    """A table of one split: what each step costs, aggregates with intervals, and who is hurt."""
    data = evaluation.summary()
    title = (
        f"{evaluation.split}: {len(data['tasks'])} tasks, 95 % intervals over tasks; gain is over "
        "step 0, hurt the share that ends below it"
    )
    success = evaluation.success is not None
    columns = ("step", "episodes", "env steps", "mean", "median", "IQM", "gain", "hurt")
    table = Table(*columns, *(["success"] if success else []), box=None, title=title)
    for step in data["steps"]:
        names = (*STATISTICS, "gain")
        cells = ["{value:.4g} [{low:.4g}, {high:.4g}]".format(**step[name]) for name in names]
        cells += [f"{step['hurt']:.0%}"] + ([f"{step['success']:.0%}"] if success else [])
        costs = (str(step["step"]), str(step["episodes"]), f"{step['env_steps']:,.0f}")
        table.add_row(*costs, *cells)
    Console(width=max(Console().width, 160)).print(table)
    _print_worst(evaluation)


def _print_worst(evaluation: Evaluation) -> None:
    """The tasks with the lowest returns in the end, and those that gain least."""
    steps, after = len(evaluation.returns) - 1, evaluation.returns[-1]
    gain = after - evaluation.returns[0]
    table = Table("", "task", "before", f"after {steps}", box=None)
    if evaluation.adaptations is not None:
        table.add_column(f"of {evaluation.adaptations.shape[-1]} adaptations")
    table.add_column("gain")
    for why, values in (("lowest return", after), ("smallest gain", gain))[: 2 if steps else 1]:
        for i in np.argsort(values)[:WORST]:
            cells = [f"{x:.4g}" for x in (evaluation.returns[0, i], after[i], gain[i])]
            if evaluation.adaptations is not None:
                each = evaluation.adaptations[-1, i]
                cells.insert(2, f"{each.min():.4g} to {each.max():.4g}")
            table.add_row(why, task_name(select_tasks(evaluation.tasks, i)), *cells)
            why = ""
    Console(width=max(Console().width, 160)).print(table)


def print_evaluation(evaluation: Evaluation, title: str = "") -> None:
    """A table of means and intervals after each inner step, for each group of tasks."""
    metrics = evaluation.metrics()
    names = [name.removesuffix("/step_0/mean") for name in metrics if name.endswith("step_0/mean")]
    table = Table("step", *names, box=None, title=title, title_justify="left")
    digits = 3 if np.abs(evaluation.returns.mean(1)).max() < 10 else 1
    for k in range(len(evaluation.returns)):
        rows = [[metrics[f"{n}/step_{k}/{x}"] for x in ("mean", "low", "high")] for n in names]
        cells = ([f"{x:.{digits}f}" for x in row] for row in rows)
        table.add_row(str(k), *(f"{mean} [{low}, {high}]" for mean, low, high in cells))
    Console().print(table)
