"""`metarl evaluate`, and the tables of an evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

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
from metarl.runs.loading import load, read_config
from metarl.runs.report import (
    clips_before_and_after,
    evaluate_splits,
    task_name,
    write_report,
)
from metarl.support.errors import UsageError
from metarl.support.options import at_least
from metarl.support.ranks import is_leader
from metarl.support.types import Json
from metarl.tasks.task import select_tasks

WORST = 3
"""Number of tasks that are listed for their low returns, and for their small gains."""


@dataclass(frozen=True)
class _Evaluate:
    """Evaluate a run's policy on held-out tasks: a table, TensorBoard and evaluation.json."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    checkpoint: str = "newest"
    """An iteration, newest, or best: by the return on held-out tasks in training."""
    splits: tuple[str, ...] = ()
    """Splits to evaluate; by default test, train and beyond, where the family has them."""
    tasks: int = 40
    """Tasks of each split."""
    steps: int | None = None
    """Inner steps; by default as many as in training."""
    adaptations: int = 3
    """Independent adaptations to each task, whose returns are averaged."""
    mean_actions: bool = False
    """Take the most likely action in the episodes that are counted, not a sampled one."""
    test_later_lr: float | None = None
    """Factor on the step size of all inner steps after the first; by default that of the run."""
    clips: int = 0
    """Number of clips in TensorBoard: each shows a task of the first split before and after
    adaptation, beginning with the task of the lowest return."""
    info_metrics: tuple[str, ...] | None = None
    """Numbers in the info of the environment, NAME or NAME:mean; by default those of the run."""
    threads: int = 0
    """Threads; 0 uses one per core."""


def run(arguments: Sequence[str]) -> None:
    """Evaluates a run and prints a table for each split."""
    options = parse(_Evaluate, arguments, _Evaluate.__doc__, command="evaluate")
    at_least("--tasks", options.tasks, 1)
    at_least("--adaptations", options.adaptations, 1)
    at_least("--clips", options.clips, 0)
    prefer_offscreen()
    own = {} if options.info_metrics is None else {"info_metrics": options.info_metrics}
    learner = load_meta_learner(
        options.run, options.checkpoint, options.test_later_lr, threads=options.threads, **own
    )
    steps = learner.test_steps if options.steps is None else options.steps
    at_least("--steps", steps, 0)
    evaluations = evaluate_splits(
        learner, options.splits, options.tasks, steps, options.adaptations, options.mean_actions
    )
    clips = clips_before_and_after(learner, evaluations[0], options.clips, steps)
    about = {"actions": "mean" if options.mean_actions else "sampled"}
    data = write_report(options.run, learner, evaluations, clips, about)
    for evaluation in evaluations:
        _print_summary(evaluation, learner.family.holds_out)
        print()
    if "train_test_gap" in data:
        gap = data["train_test_gap"][-1]
        print(f"mean return on train tasks minus that on test tasks after {steps} steps: {gap:.3g}")
    learner.close()
    print(f"wrote {options.run / EVALUATION}; figures are in TensorBoard")


def load_meta_learner(
    run: Path, checkpoint: str, test_later_lr: float | None, **changes: object
) -> MetaLearner:
    """Loads the learner of a run on a task family, with another `test_later_lr` if one is given.

    Raises:
        UsageError: the run has no inner step size, or it is not on a task family.

    """
    if test_later_lr is not None:
        if "test_later_lr" not in {field.name for field in fields(read_config(run))}:
            raise UsageError(f"--test-later-lr: {run} has no inner step size")
        changes["test_later_lr"] = test_later_lr
    learner = load(run, checkpoint, **changes)
    if not isinstance(learner, MetaLearner):
        raise UsageError(f"{run} is not a run on a task family")
    return learner


def _print_summary(evaluation: Evaluation, holds_out: bool) -> None:
    """Prints a table of one split: cost, aggregate returns and share of worse tasks by step."""
    data = evaluation.summary()
    title = (
        f"{evaluation.split}: {_tasks(evaluation, holds_out)}; gain is the "
        "change since step 0, hurt the share of tasks with a lower return than at step 0"
    )
    success = evaluation.success is not None
    columns = ("step", "episodes", "env steps", "mean", "median", "IQM", "worst tenth", "gain")
    table = Table(*columns, "hurt", *(["success"] if success else []), box=None, title=title)
    for step in data["steps"]:
        names = (*STATISTICS, "gain")
        cells = ["{value:.4g} [{low:.4g}, {high:.4g}]".format(**step[name]) for name in names]
        cells += [f"{step['hurt']:.0%}"] + ([f"{step['success']:.0%}"] if success else [])
        costs = (str(step["step"]), str(step["episodes"]), f"{step['env_steps']:,.0f}")
        table.add_row(*costs, *cells)
    Console(width=max(Console().width, 160)).print(table)
    _print_info(data["steps"], list(evaluation.info))
    _print_worst(evaluation)


def _print_info(steps: Sequence[Json], labels: Sequence[str]) -> None:
    """Prints the means of numbers in the environments' info by step, if there are some."""
    if not labels:
        return
    table = Table("step", *(f"mean {label}" for label in labels), box=None)
    for step in steps:
        means = (step["info"].get(label, math.nan) for label in labels)
        table.add_row(str(step["step"]), *(f"{mean:.4g}" for mean in means))
    Console().print(table)


def _tasks(evaluation: Evaluation, holds_out: bool) -> str:
    """How many tasks were evaluated, whether training had them, and what the intervals are over."""
    names = _names(evaluation)
    drawn, distinct = len(names), len(set(names))
    if distinct == drawn:
        return f"{drawn} task{'s' if drawn > 1 else ''}, 95 % intervals over tasks"
    known = "" if holds_out or evaluation.split == "train" else ", which training has as well"
    tasks = f"{distinct} task{'s' if distinct > 1 else ''}{known}"
    return f"{tasks}; 95 % intervals over {drawn} draws of them"


def _names(evaluation: Evaluation) -> list[str]:
    number = evaluation.returns.shape[1]
    return [task_name(select_tasks(evaluation.tasks, i)) for i in range(number)]


def _print_worst(evaluation: Evaluation) -> None:
    """Prints the tasks with the lowest final returns, and those with the smallest gains."""
    steps, after = len(evaluation.returns) - 1, evaluation.returns[-1]
    gain = after - evaluation.returns[0]
    table = Table("", "task", "before", f"after {steps}", box=None)
    if evaluation.adaptations is not None:
        table.add_column(f"of {evaluation.adaptations.shape[-1]} adaptations")
    table.add_column("gain")
    names = _names(evaluation)
    for why, values in (("lowest return", after), ("smallest gain", gain))[: 2 if steps else 1]:
        order = np.argsort(values).tolist()
        first = {names[i]: i for i in reversed(order)}  # each task once, by its lowest value
        for i in [i for i in order if first[names[i]] == i][:WORST]:
            cells = [f"{x:.4g}" for x in (evaluation.returns[0, i], after[i], gain[i])]
            if evaluation.adaptations is not None:
                each = evaluation.adaptations[-1, i]
                cells.insert(2, f"{each.min():.4g} to {each.max():.4g}")
            table.add_row(why, names[i], *cells)
            why = ""
    Console(width=max(Console().width, 160)).print(table)


def print_evaluation(evaluation: Evaluation, title: str = "") -> None:
    """Prints the mean and its interval after each inner step, for each group of tasks.

    Of several processes of torchrun, the first one prints.
    """
    if not is_leader():
        return
    metrics = evaluation.metrics()
    names = [name.removesuffix("/step_0/mean") for name in metrics if name.endswith("step_0/mean")]
    table = Table("step", *names, box=None, title=title, title_justify="left")
    digits = 3 if np.abs(evaluation.returns.mean(1)).max() < 10 else 1
    for k in range(len(evaluation.returns)):
        rows = [[metrics[f"{n}/step_{k}/{x}"] for x in ("mean", "low", "high")] for n in names]
        cells = ([f"{x:.{digits}f}" for x in row] for row in rows)
        table.add_row(str(k), *(f"{mean} [{low}, {high}]" for mean, low, high in cells))
    Console().print(table)
