"""What `metarl adapt` and `metarl evaluate` check before they compute."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from metarl.cli.main import main

SMALL = [
    *("--meta-batch-size", "2", "--episodes", "2", "--horizon", "4", "--hidden-sizes", "8"),
    *("--iterations", "1", "--eval-every", "0", "--device", "cpu"),
]


class Undrawn(gymnasium.Env):
    """Says that it can be drawn, but lacks a package."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    speed = 1.0

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-1.0, 1.0, (2,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), self.speed * float(action[0]), False, False, {}

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pencil is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    gymnasium.register("Undrawn-v1", entry_point=Undrawn, max_episode_steps=4)
    gymnasium.register(
        "UndrawnFamily-v0",
        entry_point="metarl.tasks.parameterised:ParameterisedEnv",
        max_episode_steps=4,
        kwargs={"env_id": "Undrawn-v1", "parameters": {"speed": ["speed", 0.5, 1.5]}},
    )
    path = tmp_path_factory.mktemp("runs") / "undrawn"
    main(["train", "--family", "UndrawnFamily-v0", "--run-dir", str(path), *SMALL])
    yield path
    for name in ("Undrawn-v1", "UndrawnFamily-v0"):
        gymnasium.registry.pop(name)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("adapt RUN --video FOLDER/a.png", "cannot be rendered: pencil is not installed"),
        ("adapt RUN --video FOLDER/a.png --camera side", "has no camera side to choose"),
        ("adapt RUN --video FOLDER/file/a.png", "file is a file, not a folder"),
        ("adapt RUN --video FOLDER/folder.gif", "folder.gif cannot be written: it is a folder"),
        ("adapt RUN --out FOLDER/file", "file cannot be written: .*file is a file, not a folder"),
        ("adapt RUN --out FOLDER/file/in/it", "it cannot be written: .*file is a file, not a fold"),
        ("adapt RUN --camera side", "--camera side is the camera of a video: give --video FILE"),
        ("adapt RUN --task speed=1 speed=1.2", "gives speed twice"),
        ("evaluate RUN --tasks 2 --clips 1", "cannot be rendered: pencil is not installed"),
        ("evaluate RUN --camera side", "--camera side is the camera of clips: give --clips"),
        ("show UndrawnFamily-v0 --out FOLDER/a.png", "be rendered: pencil is not installed"),
    ],
)
def test_what_cannot_be_written_is_told_first(run, words, message, tmp_path, capfd, recwarn):
    (tmp_path / "file").touch()
    (tmp_path / "folder.gif").mkdir()
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit:
        main([w.replace("RUN", str(run)).replace("FOLDER", str(tmp_path)) for w in words.split()])
    assert exit.value.code == 2
    output, line = capfd.readouterr()
    assert output == ""
    assert len(line.splitlines()) == 1
    assert not [str(warning.message) for warning in recwarn]
    assert re.search(message, line)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.gif"}
    assert not (run / "adapted").exists()
    assert not (run / "evaluation.json").exists()
