"""Commands on runs: their evaluation, comparison, figures, and policies to take away."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.statistics import STATISTICS
from metarl.learners.maml import Learner
from metarl.policies.export import PolicyModule, export_policy
from metarl.runs.clips import check_clip_name, prefer_offscreen, write_clip
from metarl.runs.folder import EVALUATION
from metarl.runs.report import (
    clip_before_and_after,
    clips_before_and_after,
    evaluate_splits,
    task_name,
    write_report,
)
from metarl.runs.run import load
from metarl.studies.comparison import Comparison, compare, table_rows
from metarl.studies.curves import group, read_run, write_figures
from metarl.support.errors import UsageError
from metarl.support.options import at_least, parse
from metarl.support.randomness import Phase, RandomKey
from metarl.tasks.parameterised import single_task_family
from metarl.tasks.task import parse_task, select_tasks

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
    """Adaptations to each task, each from rollouts of its own: one may have been lucky."""
    test_later_lr: float | None = None
    """Steps after the first have this times the step size; that of the run if not given."""
    clips: int = 0
    """Tasks of the first split, those with the lowest returns, that are shown in moving pictures,
    before and after."""
    threads: int = 0
    """Threads; 0 is one for each core."""


def evaluate_run(arguments: Sequence[str]) -> None:
    """Evaluates a run."""
    options = parse(_Evaluate, arguments, _Evaluate.__doc__, command="evaluate")
    at_least("--tasks", options.tasks, 1)
    at_least("--adaptations", options.adaptations, 1)
    at_least("--clips", options.clips, 0)
    prefer_offscreen()
    learner = _loaded(options.run, options.test_later_lr, threads=options.threads)
    steps = learner.config.inner_steps if options.steps is None else options.steps
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
    print(f"wrote {options.run / EVALUATION}; figures are in TensorBoard")


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


@dataclass(frozen=True)
class _Adapt:
    """A run's policy adapted to one task, and written in forms that run without metarl."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    task: tuple[str, ...] = ()
    """The task's parameters, as in velocity=1.5 or goal=0.3,-0.2; those not given are drawn."""
    env: str | None = None
    """A Gymnasium environment id in the place of the family: adapts to it, which has no task."""
    steps: int = 1
    """Inner steps."""
    test_later_lr: float | None = None
    """Steps after the first have this times the step size; that of the run if not given."""
    out: Path | None = None
    """Folder of the adapted policy; one that the task, steps and seed name, in `adapted` of the run
    folder, if not given."""
    video: Path | None = None
    """An episode before and after side by side: .mp4, .gif, or frames as .png."""
    seed: int = 1
    """Names the random numbers."""


def adapt_run(arguments: Sequence[str]) -> None:
    """Adapts to a task."""
    options = parse(_Adapt, arguments, _Adapt.__doc__, command="adapt")
    at_least("--steps", options.steps, 0)
    at_least("--seed", options.seed, 0)
    if options.video is not None:
        check_clip_name(options.video, "--video")
    prefer_offscreen()
    learner = _loaded(options.run, options.test_later_lr)
    if learner.config.observe_task:
        raise UsageError(f"{options.run} is of an oracle, which sees its task: nothing to adapt")
    if options.env is not None:
        if options.task:
            raise UsageError(f"--env {options.env} has no task: leave --task away")
        learner = learner.on(single_task_family(options.env, learner.config.horizon))
    key = RandomKey(options.seed, Phase.ADAPTATION)
    drawn = select_tasks(learner.family.sample_tasks(1, key, "test"), 0)
    task = parse_task(learner.family.task_space, options.task, drawn)
    adapted = learner.adapt(task, options.steps, options.seed)
    where = options.env or task_name(task)
    table = Table("step", "episodes", "return", box=None, title=where, title_justify="left")
    distributions = learner.family.distribution.parameters
    if beyond := [name for name, d in distributions.items() if not d.holds(task[name])]:
        print(f"beyond what training draws: {', '.join(beyond)}")
    returns, number = np.array(adapted.returns), adapted.episode_returns.shape[1]
    errors = np.zeros(len(returns))
    if number > 1:
        errors = 1.96 * adapted.episode_returns.std(1, ddof=1) / np.sqrt(number)
    for k, (value, error) in enumerate(zip(returns, errors, strict=True)):
        table.add_row(str(k), str(k * number), f"{value:.4g} ± {error:.2g}")
    Console().print(table)
    best = int(np.argmax(returns))
    if returns[best] - errors[best] > returns[-1] + errors[-1]:
        print(f"step {best} was better than the last: --steps {best} writes its policy")
    print(
        f"adapted with {adapted.env_steps:,} environment steps; ± is the 95 % interval over this "
        "adaptation's episodes, another --seed adapts anew"
    )
    module = PolicyModule(learner.policy, adapted.parameters, learner.family.prototype.action_space)
    about = {
        "family": learner.family.id,
        "task": {name: np.asarray(value).tolist() for name, value in task.items()},
        "inner_steps": options.steps,
        "returns": adapted.returns,
    }
    name = f"{where.replace(' ', '-').replace(':', '-')}-steps-{options.steps}-seed-{options.seed}"
    folder = options.out or options.run / "adapted" / name
    files = export_policy(module, adapted.parameters, folder, about)
    print(f"wrote {', '.join(file.name for file in files)} to {folder}")
    if options.video is not None:
        clip = clip_before_and_after(learner, task, options.steps, options.seed)
        write_clip(clip, options.video)
        print(f"wrote {options.video}: left before, right after adaptation")


def _loaded(run: Path, test_later_lr: float | None, **changes: Any) -> Learner:
    """The learner of a run folder, with the step sizes that are asked for."""
    if test_later_lr is not None:
        changes["test_later_lr"] = test_later_lr
    return load(run, **changes)


def compare_algorithms(arguments: Sequence[str]) -> None:
    """Compares algorithms and controls."""
    options = parse(Comparison, arguments, Comparison.__doc__, command="compare")
    lines = compare(options)
    rows = table_rows(lines)
    steps = (f"step {k}" for k in range(len(rows[0]) - 4))
    table = Table("", *steps, "end of each seed", "env steps", "minutes", box=None)
    for row in rows:
        table.add_row(*row)
    print(
        f"{options.family}: mean return on {options.eval_tasks} held-out tasks for each of "
        f"{options.seeds} seeds, 95 % interval over tasks"
    )
    Console(width=max(Console().width, 140)).print(table)
    print(
        f"wrote {options.folder}/comparison.png, .pdf and .csv; tensorboard --logdir "
        f"{options.folder}"
    )


@dataclass(frozen=True)
class _Plot:
    """Figures of runs, those that differ in their seeds together: .png, .pdf, and a .csv."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders; `metarl evaluate` gives them the curve over inner steps."""
    out: Path = Path("curves")
    """The files' name without an ending."""
    title: str = ""
    """Above the figure."""


def plot_runs(arguments: Sequence[str]) -> None:
    """Draws runs."""
    options = parse(_Plot, arguments, _Plot.__doc__, command="plot")
    if not options.runs:
        raise UsageError("metarl plot RUN ...: name a run folder")
    lines = group([read_run(path) for path in options.runs])
    paths = write_figures(lines, options.out, options.title)
    print(f"wrote {', '.join(map(str, paths))}")


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
