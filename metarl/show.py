"""A short clip of a family under random actions, for a look."""

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from metarl.errors import UsageError
from metarl.tasks import Task, TaskFamily

HELD = 10
"""Steps that each random action is held for, so that something moves."""
FRAMES_OF_A_STRIP = 6


def prefer_offscreen() -> None:
    """Lets MuJoCo draw without a display; before it is imported, for it asks but then."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def record_clip(family: TaskFamily, task: Task, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Frames [height, width, 3] of an episode, one for each step and one before.

    Raises:
        UsageError: the family shows nothing, or there is no way to draw on this machine.

    """
    if "rgb_array" not in family.prototype.metadata.get("render_modes", []):
        raise UsageError(f"{family.id} has no picture to show: it has no render mode rgb_array")
    env: Any = family.make(render_mode="rgb_array")
    env.unwrapped.task = task
    env.reset(seed=seed)
    env.action_space.seed(seed)
    try:
        frames = [env.render()]
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"{family.id} cannot be drawn: {error}") from error
    if frames[0] is None:
        raise UsageError(f"{family.id} has no picture to show")
    for t in range(steps):
        if t % HELD == 0:
            action = env.action_space.sample()
        _, _, terminated, truncated, _ = env.step(action)
        frames.append(env.render())
        if terminated or truncated:
            break
    env.close()
    return frames


def check_clip_name(path: Path) -> None:
    """Whether `write_clip` can write it.

    Raises:
        UsageError: it ends otherwise than in .gif or .png.

    """
    if path.suffix not in (".gif", ".png"):
        raise UsageError(f"--out {path} must end in .gif or .png")


def write_clip(frames: list[np.ndarray], path: Path, seconds_per_frame: float = 0.05) -> None:
    """Writes a moving .gif, or some of the frames side by side as a .png."""
    check_clip_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        chosen = np.linspace(0, len(frames) - 1, min(FRAMES_OF_A_STRIP, len(frames))).astype(int)
        Image.fromarray(np.concatenate([frames[i] for i in chosen], axis=1)).save(path)
        return
    first, *others = map(Image.fromarray, frames)
    milliseconds = round(1000 * seconds_per_frame)
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)
