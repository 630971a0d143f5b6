"""`metarl evaluate`, and the tables of an evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from metarl.cli.parsing import parse
from metarl.cli.progress import console, shown_progress
from metarl.evaluation.clips import prefer_offscreen
from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.statistics import STATISTICS
from metarl.runs.folder import EVALUATION
from metarl.runs.report import EvaluationOptions, evaluate
from metarl.support.ranks import is_leader
from metarl.support.text import counted, described_units
from metarl.support.types import Json
from metarl.tasks.task import first_of_each, select_tasks, task_hashes, task_name

VALUE, WHOLE = "{value:.4g}", "{value:.4g}\n[{low:.4g}, {high:.4g}]"
"""A statistic without and with its interval."""
SHARED = ", which training has as well"
WORST = 3
"""Number of tasks that are listed for their low returns, and for their small gains."""


@dataclass(frozen=True, kw_only=True)
class _Evaluate(EvaluationOptions):
    """Evaluate a run's policy on held-out tasks: a table, TensorBoard and evaluation.json."""

    run: tyro.conf.Positional[Path]
    """Run folder."""


def run(arguments: Sequence[str]) -> None:
    """Evaluates a run and prints a table for each split."""
    options = vars(parse(_Evaluate, arguments, _Evaluate.__doc__, command="evaluate")).copy()
    folder = options.pop("run")
    prefer_offscreen()
    with shown_progress() as progress:
        evaluations = evaluate(folder, progress=progress, **options)
    print(_legend(evaluations[0]))
    for evaluation in evaluations:
        print()
        _print_summary(evaluation)
    after = {e.split: float(e.returns[-1].mean()) for e in evaluations}
    # Of two sets of the same tasks, the difference is noise.
    shared = any(e.split == "test" and not e.held_out for e in evaluations)
    if {"train", "test"} <= set(after) and not shared:
        steps = len(evaluations[0].returns) - 1
        gap = after["train"] - after["test"]
        measure = evaluations[0].measure
        print(
            f"mean {measure} on train tasks minus that on test tasks after "
            f"{counted(steps, 'inner step')}: {gap:.3g}"
        )
    print(f"wrote {folder / EVALUATION}; figures are in TensorBoard")


def _legend(evaluation: Evaluation) -> str:
    """What the columns of the tables mean."""
    better = "higher" if evaluation.higher_is_better else "lower"
    unit = " (the sum of an episode's rewards)" if evaluation.measure == "return" else ""
    lines = [f"mean, median, IQM: of the {evaluation.measure}{unit}; {better} is better"]
    if evaluation.env_steps is not None:
        lines.append("learned from: episodes and environment steps of each task")
    lines.append("gain: change since step 0; hurt: share of the tasks that are worse than there")
    if evaluation.units:
        lines.append(f"tasks: {described_units(evaluation.units)}")
    return "\n".join(lines)


def _print_summary(evaluation: Evaluation) -> None:
    """Prints a table of one split: cost, aggregate returns and share of worse tasks by step."""
    print(f"{evaluation.split}: {_tasks(evaluation)}")
    data, several = evaluation.summary(), evaluation.returns.shape[1] > 1
    columns = ["step", "mean", "median", "IQM", "worst tenth", "gain", "hurt"]
    samples = evaluation.env_steps is not None
    if samples:
        columns.insert(1, "learned from")
    success = evaluation.success is not None
    table = Table(*columns, *(["success"] if success else []), box=None)
    for step in data["steps"]:
        cells = [
            (WHOLE if name in ("mean", "gain") and several else VALUE).format(**step[name])
            for name in (*STATISTICS, "gain")
        ]
        cells += [f"{step['hurt']:.0%}"] + ([f"{step['success']:.0%}"] if success else [])
        if samples:
            steps = f"{step['env_steps']:,.0f} steps"
            cells.insert(0, f"{counted(step['episodes'], 'episode')}\n{steps}")
        table.add_row(str(step["step"]), *cells)
    console().print(table)
    _print_info(data["steps"], list(evaluation.info))
    if evaluation.tasks:
        _print_worst(evaluation)


def _print_info(steps: Sequence[Json], labels: Sequence[str]) -> None:
    """Prints the means of numbers in the environments' info by step, if there are some."""
    if not labels:
        return
    table = Table("step", *(f"mean {label}" for label in labels), box=None)
    for step in steps:
        means = (step["info"].get(label, math.nan) for label in labels)
        table.add_row(str(step["step"]), *(f"{mean:.4g}" for mean in means))
    console().print(table)


def _tasks(evaluation: Evaluation) -> str:
    """How many tasks were evaluated, whether training had them, and what the intervals are over."""
    drawn = evaluation.returns.shape[1]
    if drawn == 1:
        return "1 task, of which no interval is known"
    distinct = len(set(task_hashes(evaluation.tasks))) if evaluation.tasks else drawn
    if distinct == drawn:
        return f"{counted(drawn, 'task')}, 95 % intervals over tasks"
    known = "" if evaluation.held_out or evaluation.split == "train" else SHARED
    return f"{counted(distinct, 'task')}{known}; 95 % intervals over {drawn} draws of them"


def _print_worst(evaluation: Evaluation) -> None:
    """Prints the tasks with the lowest final returns, and those with the smallest gains."""
    steps, after = len(evaluation.returns) - 1, evaluation.returns[-1]
    gain = after - evaluation.returns[0]
    table = Table("", "task", "before", f"after {counted(steps, 'step')}", box=None)
    if evaluation.adaptations is not None:
        table.add_column(f"of {counted(evaluation.adaptations.shape[-1], 'adaptation')}")
    table.add_column("gain")
    for why, values in (("lowest return", after), ("smallest gain", gain))[: 2 if steps else 1]:
        for i in first_of_each(evaluation.tasks, np.argsort(values))[:WORST]:
            cells = [f"{x:.4g}" for x in (evaluation.returns[0, i], after[i], gain[i])]
            if evaluation.adaptations is not None:
                each = evaluation.adaptations[-1, i]
                cells.insert(2, f"{each.min():.4g} to {each.max():.4g}")
            table.add_row(why, task_name(select_tasks(evaluation.tasks, i)), *cells)
            why = ""
    console().print(table)


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
    Console(markup=False).print(table)
