"""Short clips of a family, under random actions or those of a policy."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from metarl.support.errors import UsageError
from metarl.tasks.family import TaskFamily, task_environment
from metarl.tasks.task import Task

Act = Callable[[np.ndarray, float], int | np.ndarray]
"""(observation of one environment, reward of the step before) -> action."""

HELD = 10
"""Steps that each random action is held for, so that something moves."""
FRAMES_OF_A_STRIP = 6


def prefer_offscreen() -> None:
    """Lets MuJoCo draw without a display; before it is imported, for it asks but then."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def record_clip(
    family: TaskFamily, task: Task, steps: int, seed: int = 0, act: Act | None = None
) -> list[np.ndarray]:
    """Frames [height, width, 3] of an episode, one for each step and one before.

    Args:
        act: chooses the actions; random ones, each held for some steps, if it is not given.

    Raises:
        UsageError: the family shows nothing, or there is no way to draw on this machine.

    """
    if "rgb_array" not in family.prototype.metadata.get("render_modes", []):
        raise UsageError(f"{family.id} has no picture to show: it has no render mode rgb_array")
    env: Any = family.make(render_mode="rgb_array")
    task_environment(env).task = task
    observation, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    try:
        frames = [env.render()]
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"{family.id} cannot be drawn: {error}") from error
    if frames[0] is None:
        raise UsageError(f"{family.id} has no picture to show")
    reward = 0.0
    for t in range(steps):
        if act is not None:
            action = act(observation, float(reward))
        elif t % HELD == 0:
            action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        frames.append(env.render())
        if terminated or truncated:
            break
    env.close()
    return frames


def labelled(frames: list[np.ndarray], text: str) -> list[np.ndarray]:
    """The frames with a text in the corner."""
    written = []
    for frame in frames:
        image = Image.fromarray(frame)
        ImageDraw.Draw(image).text((4, 2), text, "white", stroke_width=1, stroke_fill="black")
        written.append(np.asarray(image))
    return written


def side_by_side(*clips: list[np.ndarray]) -> list[np.ndarray]:
    """Clips of one size beside each other; one that ends before the longest rests."""
    longest = max(map(len, clips))
    rested = [clip + [clip[-1]] * (longest - len(clip)) for clip in clips]
    return [np.concatenate(frames, axis=1) for frames in zip(*rested, strict=True)]


def check_clip_name(path: Path, option: str = "--out") -> None:
    """Whether `write_clip` can write it.

    Raises:
        UsageError: it ends otherwise than in .mp4, .gif or .png.

    """
    if path.suffix not in (".mp4", ".gif", ".png"):
        raise UsageError(f"{option} {path} must end in .mp4, .gif or .png")


def write_clip(frames: list[np.ndarray], path: Path, seconds_per_frame: float = 0.05) -> None:
    """Writes a moving .mp4 or .gif, or some of the frames side by side as a .png."""
    check_clip_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        height, width, _ = frames[0].shape
        writer = imageio_ffmpeg.write_frames(
            str(path), (width, height), fps=1 / seconds_per_frame, macro_block_size=2
        )
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return
    if path.suffix == ".png":
        chosen = np.linspace(0, len(frames) - 1, min(FRAMES_OF_A_STRIP, len(frames))).astype(int)
        Image.fromarray(np.concatenate([frames[i] for i in chosen], axis=1)).save(path)
        return
    path.write_bytes(gif(frames, seconds_per_frame))


def gif(frames: list[np.ndarray], seconds_per_frame: float = 0.05) -> bytes:
    """The frames as a moving picture."""
    buffer = io.BytesIO()
    first, *others = map(Image.fromarray, frames)
    milliseconds = round(1000 * seconds_per_frame)
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()
