"""Figures of an evaluation: adaptation curve, return against the task, ways in the plane."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from metarl.evaluation import Evaluation

MOST_PARAMETERS, MOST_PATHS = 4, 6
"""Shown of a task's parameters, and of the tasks."""


def evaluation_figures(evaluations: Sequence[Evaluation], measure: str) -> dict[str, Figure]:
    """The figures by their TensorBoard tags, those of the first evaluation's split where of one."""
    first = evaluations[0]
    figures = {"adaptation/curve": adaptation_figure(evaluations, measure)}
    if (by_task := task_figure(first, measure)) is not None:
        figures["adaptation/by_task"] = by_task
    if first.paths is not None:
        figures["adaptation/paths"] = path_figure(first)
    return figures


def adaptation_figure(evaluations: Sequence[Evaluation], measure: str) -> Figure:
    """Mean over tasks after each inner step, with its 95 % interval, a line for each split."""
    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    for evaluation in evaluations:
        metrics = evaluation.metrics()
        steps = range(len(evaluation.returns))
        mean, low, high = (
            np.array([metrics[f"{evaluation.split}/step_{k}/{x}"] for k in steps])
            for x in ("mean", "low", "high")
        )
        axes.errorbar(steps, mean, [mean - low, high - mean], capsize=3, label=evaluation.split)
    axes.set_xticks(range(len(evaluations[0].returns)))
    axes.set_xlabel("inner steps")
    axes.set_ylabel(measure)
    axes.set_title("held-out tasks, 95 % interval of the mean over tasks")
    axes.legend()
    return figure


def task_figure(evaluation: Evaluation, measure: str) -> Figure | None:
    """Before and after adaptation against each task parameter; None if none can be drawn.

    A number is an axis; a place in the plane is a point, coloured by the gain.
    """
    shown = {n: v for n, v in evaluation.tasks.items() if v.shape[1:] in ((), (1,), (2,))}
    if not shown:
        return None
    shown = dict(list(shown.items())[:MOST_PARAMETERS])
    figure = Figure((5 * len(shown), 4), layout="constrained")
    before, after = evaluation.returns[0], evaluation.returns[-1]
    for axes, (name, values) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
    ):
        if values.shape[1:] == (2,):
            points = axes.scatter(*values.T, c=after - before, cmap="viridis")
            figure.colorbar(points, ax=axes, label=f"gain of {measure}")
            axes.set_aspect("equal", "datalim")
            axes.set_xlabel(f"{name}[0]")
            axes.set_ylabel(f"{name}[1]")
            continue
        x = values.reshape(len(values))
        axes.vlines(x, before, after, colors="0.8", zorder=1)
        axes.plot(x, before, ".", label="before")
        axes.plot(x, after, ".", label=f"after {len(evaluation.returns) - 1} steps")
        axes.set_xlabel(name)
        axes.set_ylabel(measure)
        axes.legend()
    return figure


def path_figure(evaluation: Evaluation) -> Figure:
    """One episode of some tasks before and after adaptation, with the goal where there is one."""
    assert evaluation.paths is not None
    number = min(MOST_PATHS, evaluation.returns.shape[1])
    columns = min(number, 3)
    figure = Figure((3 * columns, 3 * -(-number // columns)), layout="constrained")
    goals: Mapping[str, np.ndarray] = evaluation.tasks
    every = figure.subplots(-(-number // columns), columns, squeeze=False).flat
    for axes in every[number:]:
        axes.remove()
    for i, axes in enumerate(every[:number]):
        for name, paths in (("before", evaluation.paths[0]), ("after", evaluation.paths[-1])):
            axes.plot(*paths[i, :, :2].T, label=name)
        if "goal" in goals and goals["goal"][i].shape == (2,):
            axes.plot(*goals["goal"][i], "k*", markersize=10)
        axes.set_aspect("equal", "datalim")
    axes.legend()
    return figure
