"""What a run folder names is not imported from the working folder, nor called, unless trusted."""

import json
import shutil
import subprocess
import sys
import textwrap

import forked
import gymnasium
import pytest

import metarl
from metarl import UsageError
from metarl.runs.checkpoint import load_newest, save_checkpoint
from metarl.support.modules import Source, import_object, named_modules, options_of_a_run

PAYLOAD = "from pathlib import Path; Path('ran').write_text('')"
SMALL = [
    "--family", "envs:Navigation2D-v0", "--meta-batch-size", "2", "--episodes", "2", "--horizon",
    "4", "--hidden-sizes", "4", "--device", "cpu", "--threads", "1", "--eval-every", "0",
    "--iterations", "1", "--run-dir", "run",
]  # fmt: skip
COMMANDS = [
    ("evaluate", "run", "--tasks", "2"),
    ("adapt", "run"),
    ("train", "--resume", "--run-dir", "run", "--iterations", "2"),
    ("train", "--resume", "--run-dir", "runs", "--seeds", "1", "--iterations", "2"),
    ("train", "--config", "run/config.json", "--run-dir", "again"),
    ("train", *SMALL[:-1], "other", "--init-from", "run"),
    ("plot", "run"),
]
OF_ONE_PROCESS = [command for command in COMMANDS if "--seeds" not in command]
"""A process for each seed takes seconds to start, and goes on as the command before it does."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    result = forked.metarl("train", *SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    # As an earlier version wrote it: otherwise, the options are compared before anything else.
    checkpoints = folder / "run/checkpoints"
    state = load_newest(checkpoints)
    del state["config"]
    save_checkpoint(checkpoints, 1, state)
    return folder / "run"


@pytest.fixture
def folder(run, tmp_path):
    """A working folder with a run, and a module that leaves a file when it is imported."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/seed-1").symlink_to(tmp_path / "run")
    (tmp_path / "planted.py").write_text(PAYLOAD)
    return tmp_path


def plant(folder, **options):
    path = folder / "run/config.json"
    content = json.loads(path.read_text())
    content["config"] |= options
    path.write_text(json.dumps(content))


PLANTED = [
    {"family": "planted:Navigation2D-v0"},
    {"family_options": {"family": "planted:Family"}},
    {"learner": "planted:Learner"},
    {"policy": "planted:Policy"},
    {"estimator": "planted:estimate"},
    {"inner_update": "planted:update"},
    {"baseline": "planted:baseline"},
    {"outer": "planted:Outer"},
    {"simulation": "planted:Backend"},
    {"sinks": ["planted:Sink"]},
    {"callbacks": ["planted:call"]},
    {"init_from": "planted:run"},
    {
        "learner": "few_shot",
        "problem": "subprocess:run",
        "problem_options": {"args": [sys.executable, "-c", PAYLOAD]},
    },
    {"learner": "few_shot", "problem": "planted:Problem"},
]


@pytest.mark.parametrize("options", PLANTED, ids=lambda o: "-".join(o))
def test_no_option_of_a_run_makes_its_own_code_run(folder, options):
    plant(folder, **options)
    for command in COMMANDS if "family" in options else OF_ONE_PROCESS:
        result = forked.metarl(*command, cwd=folder)
        assert "Traceback" not in result.stderr
        assert not (folder / "ran").exists(), command


@pytest.mark.parametrize("command", COMMANDS[:6], ids=lambda c: "-".join(c[:3]))
def test_a_module_beside_the_run_is_refused_in_one_line(folder, command):
    plant(folder, family="planted:Navigation2D-v0")
    result = forked.metarl(*command, cwd=folder)
    assert result.returncode == 2
    assert "names module planted, which is not installed" in result.stderr
    assert "--trust" in result.stderr
    assert not (folder / "ran").exists()


def test_a_file_named_as_a_package_of_metarl_is_not_imported(folder):
    (folder / "envs.py").write_text(PAYLOAD)
    assert forked.metarl("evaluate", "run", "--tasks", "2", cwd=folder).returncode == 0
    assert not (folder / "ran").exists()


def test_loading_in_python_takes_nothing_from_the_working_folder(folder):
    (folder / "envs.py").write_text(PAYLOAD)
    # The first folder of modules of this program is the working folder.
    command = [sys.executable, "-c", "from metarl import load; load('run')"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert not (folder / "ran").exists()


FAMILY = """
import gymnasium
from gymnasium import spaces

class Reach(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (2,))
    task_space = spaces.Dict({"goal": spaces.Box(-1, 1, (2,))})
    task = {"goal": [0.0, 0.0]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low * 0, {}

    def step(self, action):
        return self.observation_space.low * 0, 0.0, False, False, {}

gymnasium.register("Reach-v0", Reach, max_episode_steps=4)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A working folder with a family, and the run that it was trained in; what training said."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "reach.py").write_text(FAMILY)
    result = forked.metarl("train", *SMALL, "--family", "reach:Reach-v0", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_training_says_with_which_commands_to_go_on(own):
    folder, said = own
    command = said.split("next: metarl ")[1].split(",")[0].split()
    assert command == ["evaluate", "run", "--trust"]
    assert forked.metarl(*command, "--tasks", "2", cwd=folder).returncode == 0


def test_what_the_command_line_names_is_trusted(own):
    folder, _ = own
    resume = ("train", "--resume", "--run-dir", "run")
    assert forked.metarl(*resume, cwd=folder).returncode == 2
    assert forked.metarl(*resume, "--family", "reach:Reach-v0", cwd=folder).returncode == 0
    assert forked.metarl(*resume, "--trust", cwd=folder).returncode == 0
    init = ("train", *SMALL[:-1], "next", "--init-from", "run")
    assert forked.metarl(*init, cwd=folder).returncode == 2
    assert forked.metarl(*init, "--family", "reach:Reach-v0", cwd=folder).returncode == 0


def test_what_a_program_has_imported_is_trusted(own):
    folder, _ = own
    script = textwrap.dedent("""
        import metarl
        try:
            metarl.load("run")
        except metarl.UsageError as error:
            assert "import it first" in str(error)
        else:
            raise SystemExit("loaded")
        import reach
        metarl.load("run")
    """)
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr


def test_a_run_is_loaded_with_trust(own, monkeypatch):
    folder, _ = own
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match="not installed"):
        metarl.load("run")
    learner = metarl.load("run", trust=True)
    assert learner.iteration == 1
    del sys.modules["reach"], gymnasium.registry["Reach-v0"]


def test_a_run_calls_only_what_is_made_for_metarl():
    with options_of_a_run(Source("the run")):
        with pytest.raises(UsageError, match="not made for metarl"):
            import_object("subprocess:run", "--problem")
        assert import_object("metarl.learners.maml:MAMLLearner", "--learner")
    with options_of_a_run(Source("the run", named=named_modules(["--derive=colorsys:rgb_to_hsv"]))):
        assert import_object("colorsys:rgb_to_hsv", "--derive")
    assert import_object("subprocess:run", "--problem")


def test_a_file_of_options_and_a_script_are_the_users(own):
    folder, _ = own
    (folder / "options.yaml").write_text("family: reach:Reach-v0\nresume: true\nrun_dir: run\n")
    assert forked.metarl("train", "--config", "options.yaml", cwd=folder).returncode == 0
    script = """
from metarl import Config
from metarl.cli.train import run_experiment
run_experiment(Config("reach:Reach-v0", device="cpu"), "", ["--resume", "--run-dir", "run"])
"""
    result = forked.python("-c", script, cwd=folder)
    assert result.returncode == 0, result.stderr
