"""The command line as a user meets it: exit codes, one clear line for each mistake."""

import dataclasses
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium
import pytest
from forked import python

import metarl
from metarl import Config, RL2Config
from metarl.cli.command_line import one_line_errors
from metarl.cli.main import main
from metarl.cli.parsing import parse
from metarl.cli.train import run_experiment
from metarl.learners.presets import ALGORITHMS
from metarl.support.text import one_line
from metarl.tasks.family import make_family
from metarl.tasks.registry import registered_families

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
DIR = "envs:HalfCheetahDir-v0"
TINY = [
    *("--iterations", "1", "--meta-batch-size", "2", "--episodes", "2", "--horizon", "6"),
    *("--eval-every", "0"),
]


def failure(capsys, *arguments):
    """The one line that a mistake is answered with, after an exit with status 2."""
    with pytest.raises(SystemExit) as exit:
        run_experiment(arguments=arguments)
    assert exit.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--family", "envs:HalfCheetahDri-v0"], ["did you mean envs:HalfCheetahDir-v0?"]),
        (["--family", "nowhere:X-v0"], ["no module nowhere"]),
        (["--family", "CartPole-v1"], ["CartPole-v1 is an environment without a task"]),
        (["--family", DIR, "--iner-lr", "1"], ["Unrecognized options: --iner-lr", "--inner-lr"]),
        (["--family", DIR, "--inner-lr", "nan"], ["--inner-lr nan must be a number above 0"]),
        (["--family", DIR, "--inner-lr", "-1"], ["--inner-lr -1.0 must be"]),
        (["--family", DIR, "--inner-lr", "much"], ["--inner-lr", "'much'"]),
        (["--family", DIR, "--meta-batch-size", "0"], ["--meta-batch-size 0", "at least 1"]),
        (["--family", DIR, "--discount", "1.5"], ["--discount 1.5", "at most 1"]),
        (["--family", DIR, "--device", "tpu"], ["'tpu'", "cuda"]),
        (["--family", DIR, "--family-options", "speed", "2"], ["no option speed"]),
        (["--family", DIR, "--run-dir", "/dev/null/run"], ["/dev/null/run cannot be written"]),
        ([], ["Missing", "--family"]),
        (["--family", DIR, "--family-options", "speed"], ["--family-options"]),
        (
            ["--family", DIR, "--algorithm", "mamltrpo"],
            ["mamltrpo must be one of maml-trpo, promp"],
        ),
        (["--family", DIR, "--algorithm"], ["Missing value for argument", "--algorithm"]),
        (
            ["--family", DIR, "--algorithm", "reptile", "--estimator", "lvc"],
            ["--outer reptile takes no derivative of the inner loop", "not lvc"],
        ),
        (
            ["--family", DIR, "--algorithm", "reptile", "--sampling-correction"],
            ["--outer reptile has no surrogate"],
        ),
        (["--family", DIR, "--algorithm", "reptile", "--adapts", "head"], ["--adapts must be all"]),
        (
            ["--family", DIR, "--algorithm", "es-maml", "--meta-batch-size", "5"],
            ["--outer evolution needs pairs", "5 must be even"],
        ),
        (
            ["--family", DIR, "--algorithm", "reptile", "--step-sizes", "per_layer"],
            ["no gradient for --step-sizes per_layer"],
        ),
        (["--family", DIR, "--algorithm", "rl2"], ["it is a learner of its own, --learner rl2"]),
        (
            ["--family", DIR, "--hidden-sizes", "32,32"],
            ["--hidden-sizes", "values are divided by spaces: 32 32"],
        ),
        (["--learner", "few_shot"], ["a few-shot run needs its problem: --problem MODULE:NAME"]),
        (
            [
                *("--learner", "few_shot", "--problem", "envs.sinusoid:Sinusoid"),
                *("--problem-options", "shot", "5"),
            ],
            ["--problem envs.sinusoid:Sinusoid cannot be made", "'shot'"],
        ),
        (["--resume", "--run-dir", "runs/sed-1"], ["runs/sed-1 holds no run to resume"]),
        (["--preset", "tuned"], ["Missing from", "--family"]),
        (["--famly", DIR], ["Unrecognized options: --famly", "; did you mean --family?"]),
        (
            ["--family", DIR, "--hidden-sizes", "32", "x"],
            ["--hidden-sizes: cannot read ['32', 'x']; expected: --hidden-sizes [INT [INT ...]]"],
        ),
        (
            ["--family", DIR, "--policy-options", "width"],
            ["error: --policy-options: needs names and values in turn; expected: --policy-options"],
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments, parts):
    line = failure(capsys, *arguments)
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_cuda_without_a_gpu_is_an_error(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no GPU is available" in failure(capsys, "--family", DIR, "--device", "cuda")


def test_an_existing_run_and_a_run_in_use_are_errors(capsys, tmp_path):
    from metarl.runs.folder import RunFolder

    arguments = ["--family", "envs:Navigation2D-v0", "--run-dir", str(tmp_path), *TINY]
    run_experiment(arguments=arguments)
    capsys.readouterr()
    assert "holds a run: --resume continues it" in failure(capsys, *arguments)
    folder = RunFolder(tmp_path)
    assert "is in use by process" in failure(capsys, *arguments, "--resume")
    folder.close()


def test_a_mistake_leaves_no_run_folder(capsys, tmp_path):
    failure(capsys, "--family", "envs:Nothing-v0", "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    family = ["--family", "envs:Navigation2D-v0", *TINY]
    run_experiment(arguments=[*family, "--run-dir", str(tmp_path / "first")])
    other = ["--init-from", str(tmp_path / "first"), "--hidden-sizes", "5"]
    capsys.readouterr()
    failure(capsys, *family, *other, "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    failure(capsys, *family, *other, "--run-dir", str(tmp_path / "mine"))
    assert (tmp_path / "mine").exists()


def test_a_run_goes_on_from_its_folder_alone(tmp_path, capsys):
    run = ["--run-dir", str(tmp_path / "run")]
    small = ["--meta-batch-size", "2", "--episodes", "2", "--horizon", "3", "--eval-every", "0"]
    main(["train", "--family", DIR, "--iterations", "1", *small, *run])
    assert f"next: metarl evaluate {tmp_path / 'run'}" in capsys.readouterr().out
    main(["train", "--resume", *run, "--iterations", "2"])
    assert "iterations 2 to 2" in capsys.readouterr().out
    other = ["--inner-lr", "7", "--episodes", "9"]
    line = failure(capsys, "--resume", *run, *other)
    assert "cannot resume: the run has --episodes 2, not 9; --inner-lr 0.1, not 7.0" in line


def test_who_stops_reading_is_told_nothing():
    command = f"{sys.executable} -m metarl algorithms | head -c 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (len(result.stdout), result.stderr) == (1, "")


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as exit:
        run_experiment(Config(family=DIR), "What it is.", ["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert "What it is." in text
    for name in (field.name for field in dataclasses.fields(Config)):
        assert f"--{name.replace('_', '-')}" in text


def test_help_of_a_script_with_its_own_options_ends_well(capsys):
    with pytest.raises(SystemExit) as exit, one_line_errors():
        parse(RL2Config, ["--help"], "What it is.")
    assert exit.value.code == 0
    assert not capsys.readouterr().err


def test_help_is_grouped_with_the_common_options_first(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    titles = re.findall(r"╭─ ([\w ]+?) ─", text)
    assert titles[:4] == ["common", "task", "sampling", "policy"]
    assert titles[4:8] == ["inner loop", "outer loop", "evaluation", "run"]
    common, task, *_ = text.split("╭─ ")[1:]
    assert re.findall(r"│ --([\w-]+)", common)[:3] == ["family", "algorithm", "learner"]
    assert "--learner NAME  " in common
    assert "rl2, few_shot" in common
    assert "--horizon" in task
    outer = next(part for part in text.split("╭─ ") if part.startswith("outer loop"))
    assert {"--max-kl", "--clip", "--outer"} <= set(re.findall(r"--[\w-]+", outer))


OWN = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict


class Place(gymnasium.Env):
    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)
    task_space = Dict(goal=Box(-1.0, 1.0, ()))
    task = {"goal": 0.0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -self.tusk["goal"], False, False, {}


class Needy(Place):
    def __init__(self):
        raise gymnasium.error.DependencyNotInstalled('run `pip install "gymnasium[box2d]"`')


ENVIRONMENT = {"env_id": "Bases-v0"}
gymnasium.register(
    id="Place-v0", entry_point="own_place:Place", max_episode_steps=3
)
gymnasium.register("Needy-v0", entry_point="own_place:Needy", max_episode_steps=3)
"""
DECLARED = """
import gymnasium
import numpy as np
from metarl.tasks.declaration import DynamicsFamily
from metarl.tasks.distributions import TaskDistribution, Uniform


class Slide(DynamicsFamily):
    tasks = TaskDistribution(goal=Uniform(-1.0, 1.0))
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def initial(self, noise):
        return noise.zeros(1)

    def observe(self, state):
        return state

    def transition(self, state, action, task, noise):
        return state + action

    def reward(self, before, control, after, task):
        return task["gaol"]


class Ends(Slide):
    def reward(self, before, control, after, task):
        return task["goal"]

    def terminated(self, state, task):
        return state[..., 7] > 3


for name in ("Slide", "Ends"):
    gymnasium.register(
        f"{name}-v0",
        entry_point="metarl.simulation.dynamics:DynamicsEnv",
        max_episode_steps=3,
        kwargs={"family": f"own_place_declared:{name}"},
    )
"""


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    (tmp_path / "own_place.py").write_text(OWN)
    (tmp_path / "own_place_declared.py").write_text(DECLARED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # for the workers
    yield tmp_path
    for module in ("own_place", "own_place_declared"):
        sys.modules.pop(module, None)
    for name in ("Place-v0", "Needy-v0", "Slide-v0", "Ends-v0"):
        gymnasium.registry.pop(name, None)


@pytest.mark.parametrize(
    ("family", "line", "error"),
    [
        ("own_place:Place-v0", "return np.zeros(1, np.float32), -self", "no attribute 'tusk'"),
        ("own_place_declared:Slide-v0", 'return task["gaol"]', "KeyError: 'gaol'"),
        ("own_place_declared:Ends-v0", "return state[..., 7] > 3", "IndexError: index 7"),
        ("own_place:Place-v0 --workers 1", "return np.zeros(1, np.float32), -self", "'tusk'"),
    ],
)
def test_an_error_in_ones_own_code_is_one_line_with_its_place(
    own_folder, family, line, error, capfd
):
    with pytest.raises(SystemExit) as exit:
        main(["train", "--family", *family.split(), *TINY])
    assert exit.value.code == 1
    (told,) = capfd.readouterr().err.splitlines()
    file = own_folder / f"{family.partition(':')[0]}.py"
    number = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if line in text)
    assert error in told
    assert f"{file.name}:{number}, in " in told


def test_an_error_of_metarl_itself_keeps_its_traceback(monkeypatch, tmp_path):
    def fail(learner):
        raise ArithmeticError("a fault")

    fail.__code__ = fail.__code__.replace(co_filename=metarl.__file__)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarl.Learner.iterate", fail)
    with pytest.raises(ArithmeticError):
        main(["train", "--family", DIR, *TINY, "--run-dir", "run"])


def test_a_package_that_an_environment_needs_is_one_line(own_folder, capsys):
    line = failure(capsys, "--family", "own_place:Needy-v0")
    assert 'run `pip install "gymnasium[box2d]"`' in line


@pytest.mark.parametrize(
    ("family", "meant"),
    [
        ("own_place:Plaice-v0", "own_place:Place-v0"),  # in the module named
        ("Place-v0", "own_place:Place-v0"),  # in a file here, which is not imported
        ("own_place:HalfCheetahDri-v0", "envs:HalfCheetahDir-v0"),
        ("own_plase:Place-v0", "own_place"),
        ("Base-v0", "own_place:Place-v0"),  # not the environment that another family is of
    ],
)
def test_suggestions_come_from_the_module_and_the_folder_first(own_folder, capsys, family, meant):
    assert failure(capsys, "--family", family).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    ("command", "also"),
    [("--help", "gymnasium tyro"), ("algorithms", "gymnasium tyro"), ("families", "tyro")],
)
def test_a_list_loads_no_heavy_package(command, also):
    code = f"""
import sys
from metarl.cli.main import main
main([{command!r}])
heavy = {{*"torch matplotlib tensorboard mujoco {also}".split()}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_declared_family_lists_what_its_environment_has():
    for name in registered_families():
        family = make_family(name)
        env = family.task_env
        assert family.task_space == env.task_space
        assert family.splits == getattr(env, "splits", family.splits)
        assert family.declaration == getattr(env, "family", None)


CELLS = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, MultiBinary, MultiDiscrete

class Cells(gymnasium.Env):
    def __init__(self):
        self.observation_space = self.action_space = Box(-1, 1, (2,))
        self.task_space = Dict(cell=MultiDiscrete([3, 4]), flags=MultiBinary(3))
        self.task = {"cell": np.zeros(2, int), "flags": np.zeros(3, int)}

gymnasium.register("Cells-v0", entry_point="cells_family:Cells")
"""


def test_families_of_any_task_space_are_listed(capsys, tmp_path, monkeypatch):
    (tmp_path / "cells_family.py").write_text(CELLS)
    monkeypatch.syspath_prepend(tmp_path)
    main(["families", "cells_family"])
    output = capsys.readouterr().out
    assert re.search(r"Cells-v0 +cell 0 to 3 × 2 +- ", output)  # it has no horizon
    assert "flags 0 to 1 × 3" in output


BROKEN = """
class Unlicensed(Cells):
    def __init__(self):
        raise RuntimeError("no licence")

gymnasium.register("ABroken-v0", entry_point="broken_family:Unlicensed")
"""


def test_a_family_that_cannot_be_made_hides_no_other(capsys, tmp_path, monkeypatch):
    whole = CELLS.replace("Cells-v0", "Whole-v0").replace("cells_family", "broken_family")
    (tmp_path / "broken_family.py").write_text(whole + BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["families", "broken_family"])
    assert exit.value.code == 2
    output, errors = capsys.readouterr()
    assert re.search(r"ABroken-v0 +error, see below", output)
    assert "Whole-v0" in output
    assert "Navigation2D-v0" in output
    (line,) = errors.splitlines()
    assert line.startswith("error: ABroken-v0 cannot be made: RuntimeError: no licence")


def test_metarl_lists_the_families(capsys):
    main(["families"])
    output = capsys.readouterr().out
    for name in ("HalfCheetahDir-v0", "Navigation2D-v0", "direction {-1, 1}", "goal"):
        assert name in output


SCRIPTS = [
    path for path in sorted(EXPERIMENTS.glob("*.py")) if "run_experiment" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_experiment_runs(script, tmp_path):
    family = ["--family", "envs:PendulumParams-v0"] if script.stem == "train" else []
    result = python(script, *family, *TINY, "--run-dir", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_the_bias_of_the_estimators_is_recorded(tmp_path):
    sizes = "--mdps 3 --sampled-mdps 1 --repeats 3 --batch-sizes 10 20 --horizon 3"
    script = EXPERIMENTS / "meta_gradient_bias.py"
    result = python(script, *sizes.split(), "--run-dir", tmp_path)
    assert result.returncode == 0, result.stderr
    estimators = json.loads((tmp_path / "results.json").read_text())["estimators"]
    assert estimators["dice"]["expected"]["max"] < 1e-8
    assert estimators["lvc"]["expected"]["median"] < estimators["naive"]["expected"]["median"]
    assert estimators["lvc"]["sampled"]["20"]["rms"] > 0
    assert (tmp_path / "meta_gradient_bias.png").exists()
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_metarl_lists_the_algorithms(capsys):
    main(["algorithms"])
    output = capsys.readouterr().out
    for name, algorithm in ALGORITHMS.items():
        assert name in output
        assert algorithm.source.split(",")[0] in output


def test_an_algorithm_is_a_preset_that_options_override(tmp_path):
    """The preset stands over the script's own defaults, what is typed over the preset."""
    script = Config(family="envs:Navigation2D-v0", inner_lr=0.1)
    typed = ["--algorithm", "cavia", "--context-size", "3", "--run-dir", str(tmp_path), *TINY]
    run_experiment(script, arguments=typed)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert config["algorithm"] == "cavia"
    assert config["adapts"] == "context"
    assert config["inner_lr"] == 1
    assert config["context_size"] == 3


def test_metarl_train_is_the_same_thing(tmp_path, capsys):
    main(["train", "--family", "envs:Navigation2D-v0", "--run-dir", str(tmp_path), *TINY])
    assert "iteration 1/1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["trian"])
    error = capsys.readouterr().err
    assert error.startswith(
        "error: metarl has no command trian; the commands are train, evaluate, adapt"
    )


OWN_FAMILY = '''
import gymnasium
import numpy as np
from envs import HELPER


class Reach(gymnasium.Env):
    """A point on a line goes to a place that it does not see."""

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.task_space = gymnasium.spaces.Dict(place=gymnasium.spaces.Box(-1.0, 1.0, ()))
        self.task = {"place": 0.0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.zeros(1, np.float32)
        return self.x, {}

    def step(self, action):
        self.x = self.x + HELPER * action
        return self.x, -abs(float(self.x[0] - self.task["place"])), False, False, {}


gymnasium.register("Reach-v0", entry_point=Reach, max_episode_steps=10)
'''


def test_a_family_of_ones_own_trains_from_its_folder_beside_a_package_called_envs(tmp_path):
    (tmp_path / "my_tasks.py").write_text(textwrap.dedent(OWN_FAMILY))
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("HELPER = 0.1\n")
    options = ["--family", "my_tasks:Reach-v0", "--run-dir", "run", *TINY]
    for command in ([str(EXPERIMENTS / "train.py")], ["-m", "metarl", "train"]):
        result = subprocess.run(
            [sys.executable, *command, *options], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert "iteration 1/1" in result.stdout
        options[3] = "another"


def test_several_seeds_are_the_runs_of_each_one(tmp_path, capsys):
    options = ["train", "--family", "envs:Navigation2D-v0", *TINY]
    main([*options, "--seeds", "1", "2", "--run-dir", str(tmp_path / "several")])
    output = capsys.readouterr().out
    assert "seed 1: finished" in output
    assert "seed 2: finished" in output
    main([*options, "--seed", "2", "--run-dir", str(tmp_path / "one")])

    def returns(folder):
        metrics = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        return [value for name, value in metrics.items() if name.startswith("return/")]

    assert returns(tmp_path / "several" / "seed-2") == returns(tmp_path / "one")
    assert returns(tmp_path / "several" / "seed-1") != returns(tmp_path / "one")


def test_several_seeds_hide_no_help_and_no_preset(tmp_path, capsys):
    options = ["train", "--family", "envs:Navigation2D-v0", *TINY, "--seeds", "1", "2"]
    with pytest.raises(SystemExit):
        main([*options, "--help"])
    assert "--inner-lr" in capsys.readouterr().out
    main([*options, "--preset", "tuned", "--run-dir", str(tmp_path / "several")])
    assert capsys.readouterr().out.startswith("preset of envs:Navigation2D-v0 for maml-trpo: --")


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (["1", "1"], "--seeds 1 1 must name at least one seed, and each once"),
        (["1", "x"], "x"),
        (["1", "-2"], "--seed -2"),
        (["1", "2", "--seed", "7"], "--seed and --seeds contradict each other"),
    ],
)
def test_wrong_seeds_are_refused_before_any_run_begins(tmp_path, capsys, seeds, message):
    with pytest.raises(SystemExit) as exit:
        main(["train", "--family", DIR, "--run-dir", str(tmp_path / "run"), "--seeds", *seeds])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_name_that_no_disk_takes_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["plot", "é" * 200])
    assert exit.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: é")
    assert line.endswith("File name too long")


def test_a_message_is_one_line_that_a_terminal_can_show():
    assert one_line("as it\nis: /a/path\t'x'") == "as it is: /a/path 'x'"
    assert one_line("\x1b[31mred\x07") == "\\x1b[31mred\\x07"
    long = one_line("--out " + "ab" * 300 + " is too long")
    assert long.startswith("--out abab")
    assert "..." in long
    assert long.endswith("abab is too long")
    assert len(long) < 200
    assert len(one_line("word " * 500)) < 620
    assert one_line("é") == "é"
