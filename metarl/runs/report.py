"""The report of an evaluation: evaluation.json, TensorBoard and clips."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from metarl.evaluation.evaluation import EVALUATED_SPLITS, Evaluation
from metarl.evaluation.figures import evaluation_figures
from metarl.learners.learner import BaseLearner, MetaLearner
from metarl.runs.clips import gif, labelled, record_clip, side_by_side
from metarl.runs.folder import EVALUATION
from metarl.runs.tensorboard import add_summary
from metarl.support.files import replace_durably
from metarl.support.types import Json
from metarl.tasks.task import Task, select_tasks

EVENTS = ".evaluation"
"""Suffix of this report's event files, by which a new report finds and replaces them."""


def evaluate_splits(
    learner: MetaLearner,
    splits: Sequence[str] = (),
    tasks: int | None = None,
    steps: int | None = None,
    adaptations: int = 1,
    mean_actions: bool = False,
) -> list[Evaluation]:
    """Evaluates each split after 0..`steps` inner steps; by default test, train and beyond."""
    named = splits or [split for split in EVALUATED_SPLITS if split in learner.family.splits]
    for split in named:
        learner.family.check_split(split)
    return [learner.evaluate(tasks, steps, split, adaptations, mean_actions) for split in named]


def write_report(
    folder: Path,
    learner: BaseLearner,
    evaluations: Sequence[Evaluation],
    clips: Sequence[tuple[str, list[np.ndarray]]] = (),
    about: Mapping[str, object] | None = None,
) -> Json:
    """Writes evaluation.json and TensorBoard events, in place of those of an earlier report.

    In TensorBoard, `evaluation/<split>/mean` and its interval are curves over the inner steps.
    Figures and clips are images.

    Args:
        clips: the name and the frames of each.
        about: further entries of evaluation.json.

    Returns:
        The content of evaluation.json.

    """
    data = {**(about or {}), **_as_data(learner, evaluations)}
    replace_durably(folder / EVALUATION, (json.dumps(data, indent=2) + "\n").encode())
    for old in folder.glob(f"events.out.tfevents.*{EVENTS}"):
        old.unlink()
    writer = SummaryWriter(str(folder), filename_suffix=EVENTS)
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
    for name, frames in clips:
        add_summary(writer, _moving(f"evaluation/clips/{name}", frames))
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
        "held_out": learner.family.holds_out if isinstance(learner, MetaLearner) else True,
        "splits": {e.split: e.summary() for e in evaluations},
    }
    if {"train", "test"} <= set(data["splits"]):
        train, test = (data["splits"][split]["steps"] for split in ("train", "test"))
        gaps = (a["mean"]["value"] - b["mean"]["value"] for a, b in zip(train, test, strict=True))
        data["train_test_gap"] = list(gaps)
    return data


def clips_before_and_after(
    learner: MetaLearner, evaluation: Evaluation, number: int, steps: int
) -> list[tuple[str, list[np.ndarray]]]:
    """Clips of the tasks with the lowest returns, before and after adaptation side by side.

    Raises:
        UsageError: the family has no pictures, or this machine cannot render them.

    """
    chosen = np.argsort(evaluation.returns[-1])[:number]
    return [
        (task_name(task), clip_before_and_after(learner, task, steps))
        for task in (select_tasks(evaluation.tasks, i) for i in chosen)
    ]


def clip_before_and_after(
    learner: MetaLearner, task: Task, steps: int, seed: int | None = None
) -> list[np.ndarray]:
    """Frames of an episode before adaptation, beside one after `steps` inner steps.

    The adapted policy is that of `learner.adapt(task, steps, seed)`.
    """
    clips = []
    for number in (0, steps):
        policy, family = learner.adapt(task, number, seed).policy, learner.family
        frames = record_clip(family, task, family.horizon, learner.config.seed, policy.act)
        clips.append(labelled(frames, f"after {number} steps" if number else "before"))
    return side_by_side(*clips)


def task_name(task: Task) -> str:
    """A task in the form of `--task`: `goal=0.3,-0.2 mass=2`; long parameters are omitted."""
    small = {name: np.ravel(value) for name, value in task.items() if np.size(value) <= 3}
    numbers = {name: ",".join(f"{x:.4g}" for x in value) for name, value in small.items()}
    return " ".join(f"{name}={text}" for name, text in numbers.items()) or "task"


def _moving(tag: str, frames: list[np.ndarray]) -> Summary:
    """A summary of an animated image: TensorBoard passes the bytes of the GIF to the browser."""
    height, width, _ = frames[0].shape
    image = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=gif(frames)
    )
    return Summary(value=[Summary.Value(tag=tag, image=image)])
