"""`metarl adapt`: adapts a run's policy to one task and exports it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from metarl.cli.parsing import parse
from metarl.cli.progress import shown_progress
from metarl.evaluation.clips import check_clip_name, expect_pictures, prefer_offscreen
from metarl.learners.adapted import Adapted
from metarl.learners.learner import MetaLearner
from metarl.policies.export import expect_onnx
from metarl.runs.report import load_with
from metarl.support.errors import UsageError
from metarl.support.files import expect_place
from metarl.support.options import Count, Device, WholeNumber, check_ranges
from metarl.support.randomness import Phase, RandomKey
from metarl.support.text import counted, described_units
from metarl.tasks.parameterised import single_task_family
from metarl.tasks.task import (
    Task,
    has_exact_name,
    hash_of,
    parse_task,
    select_tasks,
    task_name,
)

LONGEST_NAME = 100
"""Letters of a task's name in that of a folder."""


@dataclass(frozen=True)
class _Adapt:
    """Adapt a run's policy to one task and export it in formats that run without metarl."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    checkpoint: str = "newest"
    """An iteration, newest, or best: by the return on held-out tasks in training."""
    task: tuple[str, ...] = ()
    """Parameters of the task, as in velocity=1.5 or goal=0.3,-0.2; the others are random."""
    env: str | None = None
    """Id of a Gymnasium environment without a task: the policy adapts to it, not to the family."""
    steps: WholeNumber = 1
    """Inner steps; for rl2, episodes of experience."""
    episodes: Count | None = None
    """Episodes that each inner step learns from; by default as many as in training."""
    test_later_lr: float | None = None
    """Factor on the step size of all inner steps after the first; by default that of the run."""
    out: Path | None = None
    """Folder for the adapted policy; by default a folder in RUN/adapted named after the task, the
    steps and the seed."""
    onnx: bool = False
    """Write policy.onnx too, which needs the extra onnx."""
    video: Path | None = None
    """Clip of an episode before and after adaptation: .mp4, .gif, or some frames as .png."""
    camera: str | None = None
    """Camera of the video, by its name in a MuJoCo model; by default one that sees the whole
    body."""
    device: Device = "auto"
    """Where the learner computes; auto takes a GPU if there is one."""
    seed: WholeNumber = 1
    """Seed of the random numbers."""
    trust: bool = False
    """Import what the run names from the working folder: its code runs with your permissions."""


def run(arguments: Sequence[str]) -> None:
    """Adapts a run's policy to a task and exports it."""
    options = parse(_Adapt, arguments, _Adapt.__doc__, command="adapt")
    check_ranges(options)
    if options.video is not None:
        check_clip_name(options.video, "--video")
    elif options.camera is not None:
        raise UsageError(f"--camera {options.camera} is the camera of a video: give --video FILE")
    if options.onnx:
        expect_onnx()
    prefer_offscreen()
    learner = load_with(
        options.run,
        options.checkpoint,
        options.episodes,
        trust=options.trust,
        device=options.device,
        test_later_lr=options.test_later_lr,
    )
    if not isinstance(learner, MetaLearner):
        raise UsageError(
            f"{options.run} is not a run on a task family: adapt it in Python, "
            "metarl.load(RUN).adapt(inputs, targets)"
        )
    if not learner.adapts:
        raise UsageError(
            f"{options.run} is the run of an oracle, which sees the task: it has nothing to adapt"
        )
    if options.env is not None:
        if options.task:
            raise UsageError(f"--env {options.env} has no task: omit --task")
        family = single_task_family(options.env, learner.config.horizon)
        with _named(family.id, options.env):
            learner = learner.on(family)
    task = _task(learner, options)
    where = options.env or task_name(task)
    folder = options.out or options.run / "adapted" / _folder_name(where, task, options)
    expect_place(folder)
    if options.video is not None:
        with _named(learner.family.id, options.env or learner.family.id):
            expect_pictures(learner.family, options.camera)
    with shown_progress() as progress:
        rollouts = options.steps + 1
        learner.on_rollout = lambda stage: progress(f"adapting to {where}", (stage + 1) / rollouts)
        adapted = learner.adapt(task, options.steps, options.seed)
        learner.on_rollout = None
    _print_returns(adapted, where, learner.family.units)
    files = adapted.export(folder, onnx=options.onnx)
    print(f"wrote {', '.join(file.name for file in files)} to {folder}")
    if options.video is not None:
        learner.render(task, options.steps, options.seed, options.camera).save(options.video)
        shown = "left before adaptation, right after" if options.steps else "before adaptation"
        print(f"wrote {options.video}: {shown}")
    learner.close()


@contextlib.contextmanager
def _named(family: str, env: str) -> Iterator[None]:
    """In the block, a message names the environment, not the family that was made of it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace(family, env, 1)) from error


def _folder_name(where: str, task: Task, options: _Adapt) -> str:
    """Names the environment or the task, with a hash where that is not the whole task."""
    name = where.replace(" ", "-").replace(":", "-")
    if options.env is None and (len(name) > LONGEST_NAME or not has_exact_name(task)):
        name = f"{name[:LONGEST_NAME]}-{hash_of(*task.values())[:8]}"
    episodes = "" if options.episodes is None else f"-episodes-{options.episodes}"
    return f"{name}-steps-{options.steps}{episodes}-seed-{options.seed}"


def _task(learner: MetaLearner, options: _Adapt) -> Task:
    """The task of --task; parameters that it does not set are drawn from the test split."""
    family = learner.family
    key = RandomKey(options.seed, Phase.ADAPTATION)
    drawn = select_tasks(family.sample_tasks(1, key, "test"), 0)
    task = parse_task(family.task_space, options.task, drawn)
    distributions = family.distribution.parameters
    if beyond := [name for name, d in distributions.items() if not d.holds(task[name])]:
        print(f"outside the training range: {', '.join(beyond)}")
    return task


def _print_returns(adapted: Adapted, title: str, units: Mapping[str, str]) -> None:
    """Prints the return after each inner step, and a hint if an earlier step has a higher one."""
    table = Table("step", "learned from", "return", box=None, title=title, title_justify="left")
    returns, number = np.array(adapted.returns), adapted.episode_returns.shape[1]
    errors = np.zeros(len(returns))
    if number > 1:
        errors = 1.96 * adapted.episode_returns.std(1, ddof=1) / np.sqrt(number)
    for k, (value, error) in enumerate(zip(returns, errors, strict=True)):
        interval = f" ± {error:.2g}" if number > 1 else ""
        table.add_row(str(k), counted(k * number, "episode"), f"{value:.4g}{interval}")
    Console(markup=False).print(table)
    best = int(np.argmax(returns))
    if number > 1 and returns[best] - errors[best] > returns[-1] + errors[-1]:
        print(f"step {best} has a higher return than the last: --steps {best} exports its policy")
    print("return: the sum of an episode's rewards, higher is better; a mean over the episodes")
    if units:
        print(f"task: {described_units(units)}")
    if number > 1:
        print("±: 95 % interval over the episodes of this adaptation")
    steps = counted(adapted.env_steps, "environment step")
    print(f"adapted with {steps}; another --seed repeats it with other random numbers")
