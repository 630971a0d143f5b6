"""Figures of an evaluation: the adaptation curve, returns by task, and trajectories."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from metarl.evaluation.evaluation import Evaluation

MOST_PARAMETERS, MOST_PATHS = 4, 6
"""Largest numbers of task parameters and of trajectories that are shown."""
COLOURS = {"test": "C0", "train": "C1", "beyond": "C2"}


def evaluation_figures(evaluations: Sequence[Evaluation], measure: str) -> dict[str, Figure]:
    """The figures by their TensorBoard tags; those of a single split show test if it is present."""
    first = next((e for e in evaluations if e.split == "test"), evaluations[0])
    figures = {"adaptation/curve": adaptation_figure(evaluations, measure)}
    if (by_task := task_figure(first, measure)) is not None:
        figures["adaptation/by_task"] = by_task
    if first.paths is not None:
        figures["adaptation/paths"] = path_figure(first)
    return figures


def adaptation_figure(evaluations: Sequence[Evaluation], measure: str) -> Figure:
    """The mean over tasks after each inner step with its 95 % interval; one line per split."""
    figure = Figure((6, 4), layout="constrained")
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


def task_figure(evaluation: Evaluation, measure: str) -> Figure | None:
    """Returns before and after adaptation over each task parameter; None if none can be drawn.

    A scalar parameter is the x axis. A parameter of two numbers is a point in the plane, in one
    panel coloured by the return after adaptation and in another by the gain.
    """
    before, after = evaluation.returns[0], evaluation.returns[-1]
    last = f"after {len(evaluation.returns) - 1} steps"
    panels: list[tuple[str, np.ndarray, str, np.ndarray]] = []
    for name, values in list(evaluation.tasks.items())[:MOST_PARAMETERS]:
        if values.shape[1:] == (2,):
            panels.append((name, values, f"{measure} {last}", after))
            panels.append((name, values, f"gain of {measure}", after - before))
        elif values.shape[1:] in ((), (1,)):
            panels.append((name, values.reshape(-1, 1), measure, after))
    if not panels:
        return None
    figure = Figure((5 * len(panels), 4), layout="constrained")
    figure.suptitle(f"{evaluation.split} tasks")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, values, label, shown) in zip(row, panels, strict=True):
        if values.shape[1] == 2:
            points = axes.scatter(*values.T, c=shown, cmap="viridis")
            figure.colorbar(points, ax=axes, label=label)
            axes.set_aspect("equal", "datalim")
            axes.set_xlabel(f"{name}[0]")
            axes.set_ylabel(f"{name}[1]")
            continue
        axes.vlines(values[:, 0], before, after, colors="0.8", zorder=1)
        axes.plot(values[:, 0], before, ".", label="before")
        axes.plot(values[:, 0], after, ".", label=last)
        axes.set_xlabel(name)
        axes.set_ylabel(label)
        axes.legend()
    return figure


def path_figure(evaluation: Evaluation) -> Figure:
    """Trajectories of some tasks before and after adaptation, with the goal if there is one."""
    assert evaluation.paths is not None
    number = min(MOST_PATHS, evaluation.returns.shape[1])
    columns = min(number, 3)
    figure = Figure((3 * columns, 3 * -(-number // columns)), layout="constrained")
    figure.suptitle(f"{evaluation.split} tasks and their mean returns")
    goals: Mapping[str, np.ndarray] = evaluation.tasks
    rows = -(-number // columns)
    # All panels have the same scale, so that they can be compared.
    every = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for axes in every[number:]:
        axes.remove()
    for i, axes in enumerate(every[:number]):
        for name, paths in (("before", evaluation.paths[0]), ("after", evaluation.paths[-1])):
            axes.plot(*paths[i, :, :2].T, label=name)
        if "goal" in goals and goals["goal"][i].shape == (2,):
            axes.plot(*goals["goal"][i], "k*", markersize=10)
        before, after = evaluation.returns[[0, -1], i]
        axes.set_title(f"{before:.4g} to {after:.4g}", fontsize="small")
        axes.set_aspect("equal")
    axes.legend()
    return figure
