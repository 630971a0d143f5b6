"""`metarl show`: records a clip of a family."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from metarl.cli.parsing import parse
from metarl.evaluation.clips import check_clip_name, prefer_offscreen, show
from metarl.support.options import Count, WholeNumber, check_ranges
from metarl.tasks.family import make_family
from metarl.tasks.task import parse_task, select_tasks


@dataclass(frozen=True)
class Show:
    """Record a short clip of a family under random actions."""

    family: tyro.conf.Positional[str]
    """Task family, MODULE:ID."""
    task: tuple[str, ...] = ()
    """Parameters of the task, as in velocity=1.5 or goal=0.3,-0.2; the others are random."""
    out: Path | None = None
    """The file: .mp4, .gif, or some of the frames side by side as .png; by default FAMILY.gif."""
    steps: Count = 100
    """Largest number of steps; the clip ends with the episode."""
    camera: str | None = None
    """Camera, by its name in a MuJoCo model; by default one that sees the whole body."""
    seed: WholeNumber = 0
    """Seed of the random numbers."""


def run(arguments: Sequence[str]) -> None:
    """Writes a clip."""
    options = parse(Show, arguments, Show.__doc__, command="show")
    check_ranges(options)
    prefer_offscreen()
    family = make_family(options.family)
    drawn = select_tasks(family.sample_tasks(1, options.seed), 0)
    task = parse_task(family.task_space, options.task, drawn)
    path = options.out or Path(f"{options.family.rpartition(':')[2]}.gif")
    check_clip_name(path)
    clip = show(family, task, options.steps, options.seed, options.camera)
    clip.save(path)
    shown = ", ".join(f"{name} {np.round(value, 3).tolist()}" for name, value in task.items())
    print(f"wrote {len(clip.frames)} frames to {path}: {family.id}, {shown}")
