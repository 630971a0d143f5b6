import ctypes
import os
import subprocess
import sys

import forked
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from metarl.cli.main import main
from metarl.evaluation.clips import prefer_offscreen
from metarl.support.errors import UsageError
from metarl.tasks.task import parse_task

SPACE = spaces.Dict(
    goal=spaces.Box(-1.0, 1.0, (2,), np.float64), velocity=spaces.Box(0.0, 3.0, (), np.float64)
)
REST = {"goal": np.zeros(2), "velocity": np.array(1.0)}


def test_a_task_is_parsed_over_the_one_that_was_drawn():
    task = parse_task(SPACE, ["goal=0.3,-0.2"], REST)
    assert task["goal"].tolist() == [0.3, -0.2]
    assert task["velocity"] == 1
    spaced = parse_task(SPACE, ["velocity = 2", "goal = 0.3, -0.2"], REST)
    assert spaced["velocity"] == 2
    assert spaced["goal"].tolist() == [0.3, -0.2]


def test_a_parameter_of_a_task_is_given_once():
    with pytest.raises(UsageError, match="--task velocity=1 velocity=2 gives velocity twice"):
        parse_task(SPACE, ["velocity=1", "velocity=2"], REST)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=1", "--task speed=1: a task has goal, velocity, not speed"),
        ("velocity", "must be PARAMETER=NUMBER"),
        ("velocity=fast", "fast must be numbers separated by commas"),
        ("goal=1", "--task goal=1: goal needs 2 numbers"),
        ("velocity=99", r"velocity = 99 is outside \[0, 3\]"),
    ],
)
def test_a_task_that_is_none_is_one_line(text, message):
    with pytest.raises(UsageError, match=message):
        parse_task(SPACE, [text], REST)


@pytest.mark.parametrize(("suffix", "frames"), [("gif", 13), ("png", 1)])
def test_a_way_in_the_plane_becomes_a_clip(suffix, frames, tmp_path, capsys):
    path = tmp_path / "new" / f"clip.{suffix}"
    command = f"show envs:Navigation2D-v0 --task goal=0.4,0.4 --steps 12 --out {path}"
    main(command.split())
    assert f"wrote 13 frames to {path}" in capsys.readouterr().out
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == frames
        assert image.size == (320 if suffix == "gif" else 6 * 320, 240)
        colours = image.convert("RGB").getcolors(100_000)
    assert len(colours) > 20


def test_a_mujoco_family_is_drawn(tmp_path):
    """In a process of its own, where MuJoCo is not imported yet."""
    command = "show envs:HalfCheetahVel-v0 --task velocity=1.5 --steps 25 --out clip.gif"
    result = subprocess.run(
        [sys.executable, "-m", "metarl", *command.split()],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    if "cannot draw here" in result.stderr:
        pytest.skip(f"no offscreen graphics: {result.stderr}")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "clip.gif") as image:
        assert image.n_frames == 26
        first = np.asarray(image.convert("RGB"), float)
        image.seek(25)
        last = np.asarray(image.convert("RGB"), float)
    assert first.shape == (240, 320, 3)
    assert first.std() > 5
    assert np.abs(last - first).mean() > 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("envs:TabularMDP-v0", "envs:TabularMDP-v0 cannot be shown"),
        ("envs:Navigation2D-v0 --out clip.avi", "--out clip.avi must end in .mp4, .gif or .png"),
        ("faulty_families:Line-v0", "has no render mode rgb_array"),
        ("envs:Navigation2D-v0 --seed 99999999999999999999", "must be at most 9223372036854775807"),
        ("envs:Navigation2D-v0 --steps 0", "--steps 0 must be a number of at least 1"),
    ],
)
def test_what_cannot_be_shown_is_one_line(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["show", *command.split()])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


WHOLE_BODY = """
from metarl.evaluation.clips import prefer_offscreen
prefer_offscreen()
import mujoco
import numpy as np
from metarl.tasks.family import make_family

for name in ("HalfCheetahDir", "AntDir", "SwimmerVel", "HumanoidDir", "ReacherGoal"):
    env = make_family(f"envs:{name}-v0").make(render_mode="rgb_array")
    own = env.unwrapped
    env.reset(seed=0)
    env.render()
    renderer, camera = own._picture._renderer, own._picture._camera
    distance = camera.distance
    renderer.enable_segmentation_rendering()
    env.action_space.seed(0)
    arm = name == "ReacherGoal"
    for pose in range(16 if arm else 2):
        if arm:  # around its base, folded and stretched
            own.data.qpos[:2] = pose * np.pi / 8, pose % 4 * 0.8
            mujoco.mj_forward(own.model, own.data)
        renderer.update_scene(own.data, camera)
        geom = renderer.render()[..., 0]
        moves = own.model.body_weldid[own.model.geom_bodyid] != 0
        body = (geom >= 0) & moves[np.clip(geom, 0, own.model.ngeom - 1)]
        edge = np.concatenate([body[0], body[-1], body[:, 0], body[:, -1]])
        assert body.any() and not edge.any(), name
        for _ in range(10):
            env.step(env.action_space.sample())
    assert camera.distance == distance
    env.close()

family = make_family("envs:HalfCheetahDir-v0")
pictures = []
for camera in (None, "track"):
    env = family.make(render_mode="rgb_array", camera_name=camera)
    env.reset(seed=0)
    pictures.append(env.render())
assert (pictures[0] != pictures[1]).any()
"""


def test_the_default_camera_sees_the_whole_body_and_others_have_names(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WHOLE_BODY], cwd=tmp_path, capture_output=True, text=True
    )
    if "cannot draw here" in result.stderr:
        pytest.skip(f"no offscreen graphics: {result.stderr}")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("HalfCheetahVel-v0", "HalfCheetahVel has no camera trak; it has track; did you mean"),
        ("ReacherGoal-v0", "ReacherGoal has no camera trak; it has none"),
        ("Navigation2D-v0", "Navigation2D-v0 has no camera trak to choose"),
    ],
)
def test_a_camera_that_is_not_there_is_one_line(family, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["show", f"envs:{family}", "--camera", "trak", "--steps", "1"])
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("missing", "chosen"),
    [((), "egl"), (("libOpenGL.so.0",), "egl"), (("libOpenGL.so.0", "libGL.so.1"), None)],
)
def test_egl_is_chosen_where_its_libraries_are(missing, chosen, monkeypatch):
    def load(name):
        if name in missing:
            raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("MUJOCO_GL", "DISPLAY"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    prefer_offscreen()
    assert os.environ.get("MUJOCO_GL") == chosen


@pytest.mark.parametrize("family", ["HalfCheetahDir", "Navigation2D"])
def test_a_way_to_draw_that_mujoco_lacks_is_one_line(family, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    command = ["train", "--family", f"envs:{family}-v0", "--iterations", "1", "--run-dir", "run"]
    result = forked.metarl(*command, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: MuJoCo cannot be imported with MUJOCO_GL=nonsense")
