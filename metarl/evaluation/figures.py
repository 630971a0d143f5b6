"""Figures of an evaluation: the adaptation curve, returns by task, and trajectories."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from metarl.evaluation.evaluation import Evaluation
from metarl.support.text import counted

LARGE: dict[Any, Any] = {
    "font.size": 17,
    "figure.titlesize": 18,
    "axes.titlesize": 18,
    "lines.linewidth": 2.5,
    "lines.markersize": 12,
}
"""So that a figure can be read in a card of TensorBoard, which is half as wide as the figure."""
SIZE = (6.4, 4.4)
"""Of a figure with one panel, in inches."""
MOST_PARAMETERS, MOST_PATHS = 4, 2
"""Largest numbers of task parameters and of trajectories that are shown."""
COLOURS = {"test": "C0", "train": "C1", "beyond": "C2"}


def evaluation_figures(evaluations: Sequence[Evaluation], measure: str) -> dict[str, Figure]:
    """The figures by their TensorBoard tags; those of a single split show test if it is present."""
    first = next((e for e in evaluations if e.split == "test"), evaluations[0])
    with matplotlib.rc_context(LARGE):
        figures = {"adaptation/curve": adaptation_figure(evaluations, measure)}
        figures |= task_figures(first, measure)
        if first.paths is not None:
            figures["adaptation/paths"] = path_figure(first)
    return figures


def adaptation_figure(evaluations: Sequence[Evaluation], measure: str) -> Figure:
    """The mean over tasks after each inner step with its 95 % interval; one line per split."""
    figure = Figure(SIZE, layout="constrained")
    axes = figure.subplots()
    for evaluation in evaluations:
        metrics = evaluation.metrics()
        steps = range(len(evaluation.returns))
        mean, low, high = (
            np.array([metrics[f"{evaluation.split}/step_{k}/{x}"] for k in steps])
            for x in ("mean", "low", "high")
        )
        axes.errorbar(
            *(steps, mean, [mean - low, high - mean]),
            capsize=3,
            label=evaluation.split,
            color=COLOURS.get(evaluation.split),
        )
    axes.set_xticks(range(len(evaluations[0].returns)))
    axes.set_xlabel("inner steps")
    axes.set_ylabel(measure)
    axes.set_title("mean and its 95 % interval over tasks")
    axes.legend()
    return figure


def task_figures(evaluation: Evaluation, measure: str) -> dict[str, Figure]:
    """Returns before and after adaptation over each task parameter, by TensorBoard tag.

    A scalar parameter is the x axis. A parameter of two numbers is a point in the plane, in one
    figure coloured by the return after adaptation and in another by the gain. Others are left out.
    """
    figures: dict[str, Figure] = {}
    before, after = evaluation.returns[0], evaluation.returns[-1]
    last = f"after {counted(len(evaluation.returns) - 1, 'step')}"
    for name, values in list(evaluation.tasks.items())[:MOST_PARAMETERS]:
        # The first figure has a tag that is the same in every family.
        own = f"adaptation/by_task/{name}" if figures else "adaptation/by_task"
        if values.shape[1:] == (2,):
            figures[own] = _in_plane(evaluation, name, after, f"{measure} {last}")
            gain = _in_plane(evaluation, name, after - before, f"gain of {measure}")
            figures[f"adaptation/by_task/{name}/gain"] = gain
        elif values.shape[1:] in ((), (1,)):
            figures[own] = _over(evaluation, name, measure, last)
    return figures


def _over(evaluation: Evaluation, name: str, measure: str, last: str) -> Figure:
    """Before and after adaptation over a scalar parameter."""
    figure = Figure(SIZE, layout="constrained")
    axes = figure.subplots()
    values = evaluation.tasks[name].reshape(-1)
    before, after = evaluation.returns[[0, -1]]
    axes.vlines(values, before, after, colors="0.8", zorder=1)
    axes.plot(values, before, ".", label="before")
    axes.plot(values, after, ".", label=last)
    unit = evaluation.units.get(name)
    axes.set_xlabel(f"{name}, {unit}" if unit else name)
    axes.set_ylabel(measure)
    axes.set_title(f"{evaluation.split} tasks")
    axes.legend()
    return figure


def _in_plane(evaluation: Evaluation, name: str, shown: np.ndarray, label: str) -> Figure:
    """The tasks as points in the plane, coloured by `shown` [tasks]."""
    figure = Figure(SIZE, layout="constrained")
    axes = figure.subplots()
    x, y = evaluation.tasks[name].T
    points = axes.scatter(x, y, c=shown, cmap="viridis")
    figure.colorbar(points, ax=axes, label=label)
    axes.set_aspect("equal", "datalim")
    axes.locator_params(nbins=5)
    axes.set_xlabel(f"{name}[0]")
    axes.set_ylabel(f"{name}[1]")
    axes.set_title(f"{evaluation.split} tasks")
    return figure


def path_figure(evaluation: Evaluation) -> Figure:
    """Trajectories of some tasks before and after adaptation, with the goal if there is one."""
    assert evaluation.paths is not None
    number = min(MOST_PATHS, evaluation.returns.shape[1])
    figure = Figure((SIZE[0] * number * 0.7, SIZE[1]), layout="constrained")
    figure.suptitle(f"{evaluation.split} tasks and their mean returns")
    goals: Mapping[str, np.ndarray] = evaluation.tasks
    # All panels have the same scale, so that they can be compared.
    every = figure.subplots(1, number, squeeze=False, sharex=True, sharey=True)[0]
    for i, axes in enumerate(every):
        for name, paths in (("before", evaluation.paths[0]), ("after", evaluation.paths[-1])):
            axes.plot(*paths[i, :, :2].T, label=name)
        if "goal" in goals and goals["goal"][i].shape == (2,):
            axes.plot(*goals["goal"][i], "k*", markersize=10)
        before, after = evaluation.returns[[0, -1], i]
        axes.set_title(f"{before:.4g} to {after:.4g}", fontsize="medium")
        axes.set_aspect("equal")
        axes.locator_params(nbins=5)
    axes.legend()
    return figure
