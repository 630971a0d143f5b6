"""Short clips of a family under random actions or a policy."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from metarl.support.errors import UsageError
from metarl.support.types import Env
from metarl.tasks.family import TaskFamily, task_environment
from metarl.tasks.task import Task

Act = Callable[[np.ndarray, float], int | np.ndarray]
"""(observation of one environment, reward of the previous step) -> action."""

HELD = 10
"""Steps for which a random action is repeated, so that the movement is visible."""
FRAMES_OF_A_STRIP = 6


def prefer_offscreen() -> None:
    """Lets MuJoCo render without a display. Call it before MuJoCo is imported."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def record_clip(
    family: TaskFamily, task: Task, steps: int, seed: int = 0, act: Act | None = None
) -> list[np.ndarray]:
    """Frames [height, width, 3] of an episode: one before the first step, and one after each step.

    Args:
        act: chooses the actions; if it is not given, they are random.

    Raises:
        UsageError: the family has no pictures, or this machine cannot render them.

    """
    if "rgb_array" not in family.prototype.metadata.get("render_modes", []):
        raise UsageError(f"{family.id} cannot be shown: it has no render mode rgb_array")
    env = family.make(render_mode="rgb_array")
    task_environment(env).task = task
    observation, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    try:
        frames = [_picture(env, family.id)]
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"{family.id} cannot be rendered: {error}") from error
    reward = 0.0
    for t in range(steps):
        if act is not None:
            action = act(observation, reward)
        elif t % HELD == 0:
            action = env.action_space.sample()
        observation, last, terminated, truncated, _ = env.step(action)
        reward = float(last)
        frames.append(_picture(env, family.id))
        if terminated or truncated:
            break
    env.close()
    return frames


def _picture(env: Env, name: str) -> np.ndarray:
    """The environment as it is now: [height, width, 3]."""
    picture = env.render()
    if not isinstance(picture, np.ndarray):
        raise UsageError(f"{name} cannot be shown: render() returns {type(picture).__name__}")
    return picture


def labelled(frames: list[np.ndarray], text: str) -> list[np.ndarray]:
    """The frames with a text in the upper left corner."""
    written = []
    for frame in frames:
        image = Image.fromarray(frame)
        ImageDraw.Draw(image).text((4, 2), text, "white", stroke_width=1, stroke_fill="black")
        written.append(np.asarray(image))
    return written


def side_by_side(*clips: list[np.ndarray]) -> list[np.ndarray]:
    """Clips of one frame size beside each other; a shorter clip keeps its last frame."""
    longest = max(map(len, clips))
    rested = [clip + [clip[-1]] * (longest - len(clip)) for clip in clips]
    return [np.concatenate(frames, axis=1) for frames in zip(*rested, strict=True)]


def check_clip_name(path: Path, option: str = "--out") -> None:
    """Checks that `write_clip` can write the file; `option` is the one that names it.

    Raises:
        UsageError: the suffix is not .mp4, .gif or .png.

    """
    if path.suffix not in (".mp4", ".gif", ".png"):
        raise UsageError(f"{option} {path} must end in .mp4, .gif or .png")


def write_clip(frames: list[np.ndarray], path: Path, seconds_per_frame: float = 0.05) -> None:
    """Writes a video as .mp4 or .gif, or some of the frames side by side as .png."""
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
    """The frames as an animated GIF."""
    buffer = io.BytesIO()
    first, *others = map(Image.fromarray, frames)
    milliseconds = round(1000 * seconds_per_frame)
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()
