"""Short clips of a family under random actions or a policy."""

import base64
import ctypes
import io
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from metarl.support.errors import UsageError
from metarl.support.files import expect_place, expect_writable
from metarl.support.types import Env
from metarl.tasks.declaration import DynamicsFamily
from metarl.tasks.family import TaskFamily, family_of, task_environment
from metarl.tasks.task import Task, select_tasks

Act = Callable[[np.ndarray, float], int | np.ndarray]
"""(observation of one environment, reward of the previous step) -> action."""

HELD = 10
"""Steps for which a random action is repeated, so that the movement is visible."""
FRAMES_OF_A_STRIP = 6
SMALLEST_FONT = 10  # pixels
CAMERA = "camera_name"
"""Option of an environment that chooses the camera, as Gymnasium's MuJoCo environments name it."""


@dataclass(frozen=True, repr=False)
class Clip:
    """A clip that a notebook shows."""

    frames: list[np.ndarray]
    """Each [height, width, 3], uint8."""

    def save(self, path: str | Path) -> Path:
        """Writes the clip as .mp4 or .gif, or some of its frames side by side as .png.

        Raises:
            UsageError: the suffix is another one.

        """
        write_clip(self.frames, Path(path))
        return Path(path)

    def __repr__(self) -> str:
        height, width, _ = self.frames[0].shape
        return f"Clip({len(self.frames)} frames of {width} × {height}; save(PATH) writes it)"

    def _repr_html_(self) -> str:
        """The moving picture, which IPython shows where a clip is the value of a cell."""
        data = base64.b64encode(gif(self.frames)).decode()
        return f'<img src="data:image/gif;base64,{data}">'


def prefer_offscreen() -> None:
    """Lets MuJoCo render without a display, if it can. Call it before MuJoCo is imported.

    MuJoCo cannot be imported, not even to compute, if it is to use EGL and a library is missing.
    """
    if sys.platform != "linux" or os.environ.get("DISPLAY"):
        return
    if _loads("libEGL.so.1") and (_loads("libOpenGL.so.0") or _loads("libGL.so.1")):
        os.environ.setdefault("MUJOCO_GL", "egl")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def show(
    family: TaskFamily | str,
    task: Task | None = None,
    steps: int = 100,
    seed: int = 0,
    camera: str | None = None,
) -> Clip:
    """A clip of a family, or of that of an id, under random actions; a task is drawn if not given.

    Raises:
        UsageError: the family has no pictures or no such camera, or this machine cannot render.

    """
    family = family_of(family, "metarl.show")
    drawn = select_tasks(family.sample_tasks(1, seed), 0) if task is None else task
    return Clip(record_clip(family, drawn, steps, seed, camera=camera))


def record_clip(
    family: TaskFamily,
    task: Task,
    steps: int,
    seed: int = 0,
    act: Act | None = None,
    camera: str | None = None,
) -> list[np.ndarray]:
    """Frames [height, width, 3] of an episode: one before the first step, and one after each step.

    Args:
        act: chooses the actions; if it is not given, they are random.
        camera: name of a camera of a MuJoCo model.

    Raises:
        UsageError: the family has no pictures or no such camera, or this machine cannot render.

    """
    if "rgb_array" not in family.prototype.metadata.get("render_modes", []):
        raise UsageError(f"{family.id} cannot be shown: it has no render mode rgb_array")
    env = _made_to_render(family, camera)
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


def expect_pictures(family: TaskFamily, camera: str | None = None) -> None:
    """Checks that clips of a family can be recorded, by a clip of one frame.

    Raises:
        UsageError: the family has no pictures or no such camera, or this machine cannot render.

    """
    show(family, steps=0, camera=camera)


def _made_to_render(family: TaskFamily, camera: str | None) -> Env:
    """An environment of the family that draws what the camera sees."""
    own = {} if camera is None else {CAMERA: camera}
    try:
        if own and isinstance(family.declaration, DynamicsFamily):
            raise TypeError("it is not a MuJoCo model")
        with warnings.catch_warnings():
            # Gymnasium looks at the class, of which another environment may be what draws.
            warnings.filterwarnings("ignore", ".*is not in the possible render_modes")
            return family.make(render_mode="rgb_array", **own)
    except TypeError as error:  # no such option
        if not own:
            raise
        reason = " ".join(str(error).split())
        raise UsageError(f"{family.id} has no camera {camera} to choose: {reason}") from error


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
        size = max(SMALLEST_FONT, frame.shape[0] // 12)
        ImageDraw.Draw(image).text(
            (4, 2), text, "white", stroke_width=1, stroke_fill="black", font_size=size
        )
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
        UsageError: the suffix is not .mp4, .gif or .png, or there is no place for it.

    """
    if path.suffix not in (".mp4", ".gif", ".png"):
        raise UsageError(f"{option} {path} must end in .mp4, .gif or .png")
    if path.is_dir():
        raise UsageError(f"{option} {path} cannot be written: it is a folder")
    expect_place(path.parent)


def write_clip(frames: list[np.ndarray], path: Path, seconds_per_frame: float = 0.05) -> None:
    """Writes a video as .mp4 or .gif, or some of the frames side by side as .png.

    Raises:
        UsageError: the suffix is another one, or the file cannot be written.

    """
    check_clip_name(path)
    with expect_writable(path):
        _write(frames, path, seconds_per_frame)


def _write(frames: list[np.ndarray], path: Path, seconds_per_frame: float) -> None:
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
