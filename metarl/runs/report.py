"""The report of an evaluation: evaluation.json, TensorBoard and clips."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary

from metarl.evaluation.clips import Clip, expect_pictures, gif
from metarl.evaluation.evaluation import EVALUATED_SPLITS, Evaluation
from metarl.evaluation.figures import evaluation_figures
from metarl.learners.base import BaseLearner
from metarl.learners.learner import MetaLearner
from metarl.runs.folder import EVALUATION
from metarl.runs.loading import load
from metarl.runs.metrics import read_intact_metrics
from metarl.runs.tensorboard import (
    EVALUATION_EVENTS,
    add_summary,
    event_files,
    layout,
    open_events,
)
from metarl.support.errors import UsageError, expect_list
from metarl.support.files import expect_writable, replace_durably
from metarl.support.options import Device, at_least, option
from metarl.support.text import json_text
from metarl.support.types import Json
from metarl.tasks.task import first_of_each, select_tasks, task_name


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Evaluate a run's policy on held-out tasks: a table, TensorBoard and evaluation.json."""

    checkpoint: str = "newest"
    """An iteration, newest, or best: by the return on held-out tasks in training."""
    splits: tuple[str, ...] = ()
    """Splits to evaluate; by default test, train and beyond, where there are such tasks."""
    tasks: int = 40
    """Tasks of each split."""
    steps: int | None = None
    """Inner steps; by default as many as in an evaluation in training."""
    episodes: int | None = None
    """Episodes that each inner step learns from; by default as many as in training."""
    adaptations: int = 3
    """Independent adaptations to each task, whose returns are averaged."""
    mean_actions: bool = False
    """Take the most likely action in the episodes that are counted, not a sampled one."""
    test_later_lr: float | None = None
    """Factor on the step size of all inner steps after the first; by default that of the run."""
    clips: int = 0
    """Number of clips in TensorBoard: each shows a task of the first split before and after
    adaptation, beginning with the task of the lowest return."""
    camera: str | None = None
    """Camera of the clips, by its name in a MuJoCo model; by default one that sees the whole
    body."""
    info_metrics: tuple[str, ...] | None = None
    """Numbers in the info of the environment, NAME or NAME:mean; by default those of the run."""
    device: Device = "auto"
    """Where the learner computes; auto takes a GPU if there is one."""
    threads: int = 0
    """Threads; 0 uses one per core."""
    trust: bool = False
    """Import what the run names from the working folder: its code runs with your permissions."""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            UsageError: one is too small, or a camera is named where there are no clips.

        """
        for name in ("splits", "info_metrics"):
            if getattr(self, name) is not None:
                expect_list(getattr(self, name), option(name))
        at_least("--tasks", self.tasks, 1)
        at_least("--adaptations", self.adaptations, 1)
        at_least("--clips", self.clips, 0)
        if self.camera is not None and not self.clips:
            raise UsageError(f"--camera {self.camera} is the camera of clips: give --clips NUMBER")
        if self.steps is not None:
            at_least("--steps", self.steps, 0)
        if self.episodes is not None:
            at_least("--episodes", self.episodes, 1)


Progress = Callable[[str, float], None]
"""Called with what is done, and with the share of it that is done."""


def evaluate(
    run: str | Path,
    *,
    problem: object | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Evaluation]:
    """Evaluates a run as `metarl evaluate` does, with its options, for example `steps=3`.

    Args:
        run: its folder, in which evaluation.json and TensorBoard's events are written.
        problem: that of a few-shot run whose config.json does not name one.
        progress: shows how far the evaluation is.
        options: those of `EvaluationOptions`.

    Returns:
        An evaluation of each split.

    Raises:
        UsageError: there is no such run, checkpoint, split or camera, or the learner has no such
            option.

    """
    asked = EvaluationOptions(**options)
    learner = load_with(
        run,
        asked.checkpoint,
        asked.episodes,
        problem=problem,
        trust=asked.trust,
        threads=asked.threads,
        device=asked.device,
        test_later_lr=asked.test_later_lr,
        info_metrics=asked.info_metrics,
    )
    if asked.clips and isinstance(learner, MetaLearner):
        expect_pictures(learner.family, asked.camera)
    steps = learner.test_steps if asked.steps is None else asked.steps
    evaluations = _evaluate_splits(learner, asked, steps, progress)
    clips: Iterable[tuple[str, Clip]] = []
    about = {}
    if isinstance(learner, MetaLearner):
        clips = _clips_of_worst(learner, evaluations[0], asked, steps)
        about = {"actions": "mean" if asked.mean_actions else "sampled"}
    write_report(Path(run), learner, evaluations, clips, about)
    learner.close()
    return evaluations


def _evaluate_splits(
    learner: BaseLearner, asked: EvaluationOptions, steps: int, progress: Progress | None
) -> list[Evaluation]:
    own: Json = {"mean_actions": True} if asked.mean_actions else {}
    if (own or asked.clips) and not isinstance(learner, MetaLearner):
        name = "--mean-actions" if own else "--clips"
        raise UsageError(f"{name}: {learner.name} is not a run on a task family")
    named = asked.splits or [split for split in EVALUATED_SPLITS if split in learner.splits]
    for split in named:
        if split not in learner.splits:
            known = ", ".join(learner.splits)
            raise UsageError(f"{learner.name} has no split {split}; it has {known}")
    evaluations = []
    for split in named:
        if progress is not None:
            shown = functools.partial(progress, f"{split} tasks")
            shown(0.0)
            learner.on_rollout = lambda stage, shown=shown: shown((stage + 1) / (steps + 1))
        evaluations.append(learner.evaluate(asked.tasks, steps, split, asked.adaptations, **own))
    learner.on_rollout = None
    return evaluations


def load_with(
    run: str | Path,
    checkpoint: str | int,
    episodes: int | None,
    **changes: Any,
) -> BaseLearner:
    """Loads the learner of a run with those changes of its options that are not None; see `load`.

    Raises:
        UsageError: the learner cannot learn from so many `episodes` in each step.

    """
    changes = {name: x for name, x in {**changes, "episodes": episodes}.items() if x is not None}
    learner = load(run, checkpoint, **changes)
    if episodes is not None and getattr(learner, "episodes", None) != episodes:
        raise UsageError(
            f"--episodes: {learner.name} learns from one episode after the other; --steps is their "
            "number"
        )
    return learner


def write_report(
    folder: Path,
    learner: BaseLearner,
    evaluations: Sequence[Evaluation],
    clips: Iterable[tuple[str, Clip]] = (),
    about: Mapping[str, object] | None = None,
) -> Json:
    """Writes evaluation.json and TensorBoard events, in place of those of an earlier report.

    In TensorBoard, `evaluation/<split>/mean` and its interval are curves over the inner steps.
    Figures and clips are images.

    Args:
        clips: with their names; they are made last, when all else is written.
        about: further entries of evaluation.json.

    Returns:
        The content of evaluation.json.

    """
    data = {**(about or {}), **_as_data(learner, evaluations)}
    replace_durably(folder / EVALUATION, (json_text(data, 2) + "\n").encode())
    with expect_writable(folder, "run folder"):
        for old in event_files(folder, EVALUATION_EVENTS):
            old.unlink(missing_ok=True)
        writer = open_events(folder, EVALUATION_EVENTS)
    shown = {tag.split("/")[0] for metrics in read_intact_metrics(folder) for tag in metrics}
    in_training = [split for split in learner.eval_splits if split in shown]
    pages = layout(learner.measure, learner.test_steps, in_training, data["splits"])
    writer.add_custom_scalars(pages)
    for evaluation in evaluations:
        for step in evaluation.summary()["steps"]:
            values = {
                "mean": step["mean"]["value"],
                "low": step["mean"]["low"],
                "high": step["mean"]["high"],
                "median": step["median"]["value"],
                "iqm": step["iqm"]["value"],
                "tail": step["tail"]["value"],
                "hurt": step["hurt"],
            }
            if "success" in step:
                values["success"] = step["success"]
            values |= {f"info/{label}": mean for label, mean in step.get("info", {}).items()}
            for name, value in values.items():
                writer.add_scalar(f"evaluation/{evaluation.split}/{name}", value, step["step"])
    for tag, figure in evaluation_figures(evaluations, learner.measure).items():
        writer.add_figure(f"evaluation/{tag}", figure, learner.iteration, close=False)
    try:
        for name, clip in clips:
            add_summary(writer, _moving(f"evaluation/clips/{name}", clip.frames))
    finally:
        writer.close()
    return data


def _as_data(learner: BaseLearner, evaluations: Sequence[Evaluation]) -> Json:
    """The content of evaluation.json."""
    data: Json = {
        "learner": learner.config.learner,
        "family": getattr(learner.config, "family", learner.name),
        "algorithm": getattr(learner.config, "algorithm", learner.config.learner),
        "seed": learner.config.seed,
        "iteration": learner.iteration,
        "measure": learner.measure,
        "higher_is_better": learner.higher_is_better,
        "held_out": learner.family.holds_out if isinstance(learner, MetaLearner) else True,
        "splits": {e.split: e.summary() for e in evaluations},
    }
    if {"train", "test"} <= set(data["splits"]):
        train, test = (data["splits"][split]["steps"] for split in ("train", "test"))
        gaps = (a["mean"]["value"] - b["mean"]["value"] for a, b in zip(train, test, strict=True))
        data["train_test_gap"] = list(gaps)
    return data


def _clips_of_worst(
    learner: MetaLearner, evaluation: Evaluation, asked: EvaluationOptions, steps: int
) -> Iterator[tuple[str, Clip]]:
    """Clips of the tasks with the lowest returns, before and after adaptation side by side."""
    chosen = first_of_each(evaluation.tasks, np.argsort(evaluation.returns[-1]))[: asked.clips]
    tasks = [select_tasks(evaluation.tasks, i) for i in chosen]
    return ((task_name(task), learner.render(task, steps, camera=asked.camera)) for task in tasks)


def _moving(tag: str, frames: list[np.ndarray]) -> Summary:
    """A summary of an animated image: TensorBoard passes the bytes of the GIF to the browser."""
    height, width, _ = frames[0].shape
    image = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=gif(frames)
    )
    return Summary(value=[Summary.Value(tag=tag, image=image)])
