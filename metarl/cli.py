"""The command line: `metarl train`, also that of experiment scripts, and lists of what there is."""

import contextlib
import dataclasses
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from metarl.algorithms import ALGORITHMS, CONTROLS, find_algorithm
from metarl.check import check_family
from metarl.compare import Comparison, compare, table_rows
from metarl.config import Config
from metarl.distributions import TaskDistribution
from metarl.errors import UsageError
from metarl.evaluation import STATISTICS, Evaluation
from metarl.export import PolicyModule, export_policy
from metarl.learner import Learner
from metarl.new_family import write_family
from metarl.parameterised import single_task_family
from metarl.plot import group, read_run, write_figures
from metarl.randomness import Phase, RandomKey
from metarl.record import EVALUATION
from metarl.report import (
    as_data,
    clip_before_and_after,
    clips_before_and_after,
    evaluate_splits,
    task_name,
    write_report,
)
from metarl.show import check_clip_name, prefer_offscreen, record_clip, write_clip
from metarl.simulation.gymnasium import backend_name
from metarl.tasks import (
    import_family_module,
    make_family,
    parse_task,
    registered_families,
    select_tasks,
)
from metarl.training import load, train

T = TypeVar("T")

HELP = {
    "families": "metarl families [MODULE ...]: lists task families, those of the modules included",
    "algorithms": "metarl algorithms: lists the named algorithms with their papers",
    "check": "metarl check FAMILY ...: whether a family, MODULE:ID, keeps what training relies on",
    "new-family": "metarl new-family NAME [--mujoco]: writes a starter family and its test into "
    "this folder, with --mujoco a declared one on a MuJoCo model of its own; "
    "experiments/own_families has an example of each kind",
}
"""Of the commands without options."""

WIDE = 120
"""Columns of a table that is cut on a narrower terminal rather than torn."""


def run_experiment(
    default: Config | None = None,
    description: str | None = None,
    arguments: Sequence[str] | None = None,
) -> Learner:
    """The main function of an experiment: options over `default`, then training.

    Exits with status 2 and one line where the command line is at fault.
    """
    with one_line_errors():
        config = _parse(default, description, sys.argv[1:] if arguments is None else arguments)
        return train(config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Callable[[Sequence[str]], object]] = {
        "train": lambda rest: run_experiment(arguments=rest, description=Config.__doc__),
        "families": _families,
        "algorithms": _algorithms,
        "check": _check,
        "new-family": _new_family,
        "show": _show,
        "evaluate": _evaluate,
        "adapt": _adapt,
        "compare": _compare,
        "plot": _plot,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: metarl train --help | evaluate RUN | adapt RUN | compare --help | plot RUN ... "
            "| families [MODULE ...] | algorithms | check FAMILY ... | new-family NAME "
            "[--mujoco] | show FAMILY"
        )
        return
    if arguments[0] in HELP and set(arguments[1:]) & {"-h", "--help"}:
        print(HELP[arguments[0]])
        return
    with one_line_errors():
        if arguments[0] not in commands:
            raise UsageError(f"metarl has no command {arguments[0]}; it has {', '.join(commands)}")
        commands[arguments[0]](arguments[1:])


def _parse(default: Config | None, description: str | None, arguments: Sequence[str]) -> Config:
    preset = _preset(arguments)
    default = dataclasses.replace(default or Config(family=tyro.MISSING), **preset)
    return _cli(Config, arguments, description, default)


def _cli(
    options: type[T], arguments: Sequence[str], description: str | None, default: T | None = None
) -> T:
    """What tyro parses; its message on one line where the command line is at fault."""
    output = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(output):
            parsed: T = tyro.cli(options, description=description, args=arguments, **given)
    except SystemExit as exit:
        if exit.code:
            raise UsageError(_unboxed(output.getvalue())) from None
        raise
    return parsed


def _preset(arguments: Sequence[str]) -> dict[str, Any]:
    """What the algorithm named among the arguments puts in the place of the defaults."""
    for i, argument in enumerate(arguments):
        option, _, name = argument.partition("=")
        if option == "--algorithm":
            name = name or " ".join(arguments[i + 1 : i + 2])
            return {"algorithm": name, **find_algorithm(name).options}
    return {}


def _unboxed(text: str) -> str:
    """Tyro's boxed message as one line: what is wrong, and the option that was perhaps meant."""
    lines = [line.strip("│╭╰╮╯ ") for line in text.splitlines()]
    message: list[str] = []
    for line in lines[1:-1]:
        if set(line) == {"─"}:
            if any(part.startswith("Perhaps you meant") for part in message):
                break
            message.append(";")
        elif line.startswith(("For full helptext", "Argument helptext")):
            break
        else:
            message.append(line)
    return " ".join(message).replace(" ;", ";").strip("; ")


def _families(modules: Sequence[str]) -> None:
    """Lists the registered families, those of `modules` included."""
    for module in modules:
        import_family_module(module)
    table = Table("family", "task", "horizon", "splits", "steps by", "source", box=None)
    for name in registered_families():
        family = make_family(name, gymnasium.spec(name).max_episode_steps or 1)
        base: Any = family.prototype.unwrapped
        declaration = getattr(base, "family", None)
        distribution = getattr(declaration or base, "tasks", TaskDistribution())
        units = {key: getattr(d, "unit", "") for key, d in distribution.parameters.items()}
        parameters = "\n".join(
            f"{key} {_range(space)} {units.get(key, '')}".rstrip()
            for key, space in family.task_space.items()
        )
        splits, backend = " ".join(family.splits), backend_name(family)
        source = declaration.source if declaration else ""
        table.add_row(name, parameters, str(family.horizon), splits, backend, source)
    Console(width=max(Console().width, WIDE)).print(table)


def _range(space: Any) -> str:
    """A task parameter's range and shape, briefly."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return f"{space.start} to {space.start + space.n - 1}"
    shape = "×".join(map(str, space.shape))
    return f"[{space.low.min():.3g}, {space.high.max():.3g}]{f' × {shape}' if shape else ''}"


def _algorithms(_: Sequence[str]) -> None:
    """Lists the named algorithms."""
    table = Table("algorithm", "what it is", "source", box=None)
    for name, algorithm in (ALGORITHMS | CONTROLS).items():
        table.add_row(name, algorithm.summary, algorithm.source)
    Console().print(table)


def _check(names: Sequence[str]) -> None:
    """Checks families, each in a table; exits with status 1 if one has a fault."""
    if not names:
        raise UsageError("metarl check FAMILY ...: name a family, as in envs:Navigation2D-v0")
    faults = 0
    for name in names:
        table = Table("", "check", "found", box=None, title=name, title_justify="left")
        for finding in check_family(make_family(name)):
            detail = finding.detail + (f"\n→ {finding.hint}" if finding.hint else "")
            table.add_row("ok" if finding.passed else "FAULT", finding.name, detail)
            faults += not finding.passed
        Console().print(table)
    if faults:
        print(f"{faults} fault{'s' if faults > 1 else ''} found", file=sys.stderr)
        raise SystemExit(1)


def _new_family(arguments: Sequence[str]) -> None:
    """Writes starter files and their test into the working folder."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    for option in arguments:
        if option.startswith("-") and option != "--mujoco":
            raise UsageError(f"metarl new-family has no option {option}; it has --mujoco")
    if len(names) != 1:
        raise UsageError("metarl new-family NAME [--mujoco]: give one name, as in PushToGoal")
    *files, test = write_family(names[0], Path(), mujoco="--mujoco" in arguments)
    family = f"{files[0].stem}:{names[0]}-v0"
    print(f"wrote {', '.join(map(str, files))} and {test}; next, make them yours, and")
    print(f"  metarl check {family}")
    print(f"  metarl train --family {family}")


@dataclass(frozen=True)
class _Show:
    """A short clip of a family under random actions, for a look."""

    family: tyro.conf.Positional[str]
    """Task family, MODULE:ID."""
    task: tuple[str, ...] = ()
    """Parameters of the task, as in velocity=1.5 or goal=0.3,-0.2; others are drawn."""
    out: Path | None = None
    """A moving .gif, or a strip of frames as .png; <family>.gif if not given."""
    steps: int = 100
    """Steps of the clip, if the episode lasts."""
    seed: int = 0
    """Names the random numbers."""


def _show(arguments: Sequence[str]) -> None:
    """Writes a clip."""
    options = _cli(_Show, arguments, _Show.__doc__)
    prefer_offscreen()
    family = make_family(options.family)
    drawn = select_tasks(family.sample_tasks(1, RandomKey(options.seed)), 0)
    task = parse_task(family.task_space, options.task, drawn)
    path = options.out or Path(f"{options.family.rpartition(':')[2]}.gif")
    check_clip_name(path)
    frames = record_clip(family, task, options.steps, options.seed)
    write_clip(frames, path)
    shown = ", ".join(f"{name} {np.round(value, 3).tolist()}" for name, value in task.items())
    print(f"wrote {len(frames)} frames to {path}: {family.id}, {shown}")


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
    clips: int = 0
    """Tasks of the first split that are shown in moving pictures, before and after."""
    threads: int = 0
    """Threads; 0 is one for each core."""


def _evaluate(arguments: Sequence[str]) -> None:
    """Evaluates a run."""
    options = _cli(_Evaluate, arguments, _Evaluate.__doc__)
    _at_least("--tasks", options.tasks, 1)
    _at_least("--clips", options.clips, 0)
    prefer_offscreen()
    learner = load(options.run, threads=options.threads)
    steps = learner.config.inner_steps if options.steps is None else options.steps
    _at_least("--steps", steps, 0)
    evaluations = evaluate_splits(learner, options.splits, options.tasks, steps)
    clips = clips_before_and_after(learner, evaluations[0], options.clips, steps)
    write_report(options.run, learner, evaluations, clips)
    for evaluation in evaluations:
        _print_summary(evaluation)
    data = as_data(learner, evaluations)
    if "train_test_gap" in data:
        print(f"train less test after {steps} steps: {data['train_test_gap'][-1]:.3g}")
    print(f"wrote {options.run / EVALUATION}; figures are in TensorBoard")


def _print_summary(evaluation: Evaluation) -> None:
    """A table of one split: what each step costs, aggregates with intervals, and who is hurt."""
    data = evaluation.summary()
    title = f"{evaluation.split}: {len(data['tasks'])} tasks, 95 % intervals"
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
    worst = sorted(data["tasks"], key=lambda task: task["returns"][-1])[:3]
    told = "; ".join(f"{task_name(t['task'])} ({t['returns'][-1]:.4g})" for t in worst)
    print(f"adapts worst to: {told}")


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
    out: Path | None = None
    """Folder of the adapted policy; `adapted` in the run folder if not given."""
    video: Path | None = None
    """An episode before and after side by side: .mp4, .gif, or frames as .png."""
    seed: int = 1
    """Names the random numbers."""


def _adapt(arguments: Sequence[str]) -> None:
    """Adapts to a task."""
    options = _cli(_Adapt, arguments, _Adapt.__doc__)
    _at_least("--steps", options.steps, 0)
    _at_least("--seed", options.seed, 0)
    if options.video is not None:
        check_clip_name(options.video, "--video")
    prefer_offscreen()
    learner = load(options.run)
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
    for k, returns in enumerate(adapted.episode_returns):
        error = 1.96 * returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else 0.0
        table.add_row(str(k), str(k * len(returns)), f"{returns.mean():.4g} ± {error:.2g}")
    Console().print(table)
    print(f"adapted with {adapted.env_steps:,} environment steps")
    module = PolicyModule(learner.policy, adapted.parameters, learner.family.prototype.action_space)
    about = {
        "family": learner.family.id,
        "task": {name: np.asarray(value).tolist() for name, value in task.items()},
        "inner_steps": options.steps,
        "returns": adapted.returns,
    }
    folder = options.out or options.run / "adapted"
    files = export_policy(module, adapted.parameters, folder, about)
    print(f"wrote {', '.join(file.name for file in files)} to {folder}")
    if options.video is not None:
        clip = clip_before_and_after(learner, task, options.steps, options.seed)
        write_clip(clip, options.video)
        print(f"wrote {options.video}: left before, right after adaptation")


def _compare(arguments: Sequence[str]) -> None:
    """Compares algorithms and controls."""
    options = _cli(Comparison, arguments, Comparison.__doc__)
    lines = compare(options)
    rows = table_rows(lines)
    steps = (f"step {k}" for k in range(len(rows[0]) - 3))
    table = Table("", *steps, "env steps", "min", box=None)
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


def _plot(arguments: Sequence[str]) -> None:
    """Draws runs."""
    options = _cli(_Plot, arguments, _Plot.__doc__)
    if not options.runs:
        raise UsageError("metarl plot RUN ...: name a run folder")
    lines = group([read_run(path) for path in options.runs])
    paths = write_figures(lines, options.out, options.title)
    print(f"wrote {', '.join(map(str, paths))}")


def _at_least(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise UsageError(f"{name} {value} must be at least {lowest}")


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


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """In the block a `UsageError` is one line on standard error and an exit with status 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        yield
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
