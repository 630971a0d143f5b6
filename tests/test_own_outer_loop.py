"""Outer loops and their options: declared in one file, by metarl or by another package."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch

from metarl import Config, Learner, UsageError, train
from metarl.cli.main import main
from metarl.outer.loop import OuterLoop, Start, StepSizeOptions
from metarl.outer.registry import OUTER_LOOPS, OuterOptions
from metarl.policies.parameters import expand

SOURCE = '''
"""A step of fixed length along the sign of the gradient."""

from dataclasses import dataclass

from metarl.outer.loop import OuterLoop, expect
from metarl.support.options import Positive


@dataclass(frozen=True, kw_only=True)
class SignOptions:
    """Options of the sign step."""

    sign_step: Positive = 0.25
    """Length of the step of each parameter."""


class SignStep(OuterLoop):
    """θ ← θ + step · sign ∇ surrogate."""

    Options = SignOptions

    def __init__(self, options):
        self.size = options.sign_step

    @classmethod
    def check(cls, options):
        expect(options.inner_steps < 3, f"--inner-steps {options.inner_steps} must be below 3")

    def step(self, objective, parameters):
        before, gradient = objective.gradient(parameters)
        theta = {n: p + self.size * gradient[n].sign() for n, p in parameters.items()}
        surrogate, kl = objective.value(theta)
        return theta, {"outer/kl": kl, "outer/surrogate": surrogate - before}
'''

TRAIN = """
import torch
from metarl import Config, Learner, UsageError
config = Config(family="envs:Navigation2D-v0", outer="sign", sign_step=0.5, meta_batch_size=2,
                episodes=2, horizon=3, device="cpu")
learner = Learner(config)
before = learner.parameters
learner.iterate()
print(sorted({round(float(x), 4) for n, p in learner.parameters.items()
              for x in (p - before[n]).abs().flatten()}))
for wrong in ({"inner_steps": 3}, {"sign_step": 0.0}):
    try:
        Config(**{"family": "x", "outer": "sign", **wrong})
    except UsageError as error:
        print(error)
"""


@pytest.fixture
def site(tmp_path):
    """Where an installed package announces the outer loop `sign`."""
    (tmp_path / "sign_step.py").write_text(SOURCE)
    info = tmp_path / "sign_step-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sign-step\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[metarl.outer_loops]\nsign = sign_step:SignStep\n")
    return tmp_path


def run(site, *arguments):
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )


def test_another_packages_outer_loop_trains_with_an_option_of_its_own(site):
    result = run(site, "-c", TRAIN)
    assert result.returncode == 0, result.stderr
    steps, contradiction, range_error = result.stdout.splitlines()
    assert steps in ("[0.5]", "[0.0, 0.5]")  # 0 where a unit has no gradient
    assert contradiction == "--inner-steps 3 must be below 3"
    assert range_error == "--sign-step 0.0 must be a number above 0"


def test_its_option_is_on_the_command_line(site):
    result = run(site, "-m", "metarl", "train", "--outer", "sign", "--help")
    assert "--sign-step" in result.stdout
    assert "Length of the step of each parameter" in result.stdout


def test_an_entry_point_that_is_no_outer_loop_is_one_line(site):
    entry = "[metarl.outer_loops]\nsign = sign_step:SignOptions\n"
    (site / "sign_step-1.0.dist-info" / "entry_points.txt").write_text(entry)
    assert run(site, "-m", "metarl", "train", "--help").returncode == 0
    result = run(site, "-m", "metarl", "train", "--outer", "sign", "--help")
    assert result.returncode == 2
    assert result.stderr.startswith(
        "error: --outer sign (sign_step:SignOptions) must be a subclass"
    )


def test_the_options_of_every_loop_are_options_of_a_run():
    config = Config(family="x")
    assert isinstance(config, OuterOptions)
    for loop in map(OUTER_LOOPS.find, OUTER_LOOPS.own):
        assert isinstance(config, loop.Options)
        for field in dataclasses.fields(loop.Options):
            assert getattr(config, field.name) == field.default


def test_an_option_of_another_loop_is_refused(capsys):
    message = "--max-kl is an option of --outer trpo, not of ppo"
    for options in (["--outer", "ppo"], ["--algorithm", "promp", "--preset", "tuned"]):
        with pytest.raises(SystemExit):
            main(["train", "--family", "envs:AntDir-v0", *options, "--max-kl", "0.01"])
        assert capsys.readouterr().err == f"error: {message}\n"
    for own in ({"outer": "ppo"}, {"algorithm": "promp"}):
        with pytest.raises(UsageError, match=message):
            Config("x", max_kl=0.01, **own)
    assert Config("x", algorithm="promp", outer="trpo", max_kl=0.03).max_kl == 0.03
    assert Config("envs:AntDir-v0", algorithm="promp", preset="tuned").outer == "ppo"
    # A run that an earlier version began with one goes on.
    written = Config("x", outer="ppo").to_json() | {"max_kl": 0.03}
    assert Config.from_json(written).outer == "ppo"


def test_an_option_without_default_concerns_the_runs_of_its_loop_alone(site):
    (site / "sign_step.py").write_text(SOURCE.replace(" = 0.25", ""))
    train = ("-m", "metarl", "train", "--family", "envs:Navigation2D-v0")
    assert run(site, *train, "--help").returncode == 0
    result = run(site, *train, "--outer", "sign")
    assert result.stderr.startswith("error: --outer sign: its option sign_step has no default")


@pytest.mark.slow
def test_a_run_of_another_loop_does_not_depend_on_the_package(site, tmp_path):
    """Begun without the package, it goes on with it, and the other way round."""
    small = "--family envs:Navigation2D-v0 --meta-batch-size 2 --episodes 2 --horizon 3"
    begin = ["-m", "metarl", "train", *small.split(), "--eval-every", "0", "--run-dir"]
    go_on = ["-m", "metarl", "train", "--resume", "--iterations", "2", "--run-dir"]
    without, having = (str(tmp_path / name) for name in ("without", "with"))
    for first, second, folder in (
        (tmp_path / "no", site, without),
        (site, tmp_path / "no", having),
    ):
        assert run(first, *begin, folder, "--iterations", "1").returncode == 0
        assert "sign_step" not in json.loads((Path(folder) / "config.json").read_text())["config"]
        result = run(second, *go_on, folder)
        assert result.returncode == 0, result.stderr


def test_a_run_of_the_loop_needs_its_package(site, tmp_path):
    small = "--family envs:Navigation2D-v0 --meta-batch-size 2 --episodes 2 --horizon 3"
    options = [*small.split(), "--eval-every", "0", "--iterations", "1", "--outer", "sign"]
    folder = str(tmp_path / "run")
    begun = run(site, "-m", "metarl", "train", *options, "--sign-step", "0.5", "--run-dir", folder)
    assert begun.returncode == 0, begun.stderr
    result = run(tmp_path / "no", "-m", "metarl", "evaluate", folder)
    assert result.returncode == 2
    assert result.stderr == (
        "error: the run has --outer sign, which no installed package announces: install the "
        "package that has it\n"
    )


class Own(OuterLoop):
    """Moves nothing."""

    Options = StepSizeOptions

    def __init__(self, options):
        pass

    def step(self, objective, parameters):
        return parameters, {"outer/kl": 0.0}


class Abstract(OuterLoop):
    Options = StepSizeOptions


class NoOptions(OuterLoop):
    __init__ = step = Own.step


class PlainOptions(NoOptions):
    Options = dict


class OpenOptions(NoOptions):
    Options = dataclasses.make_dataclass("Open", [("size", float, 1.0)])


CLASSES = {
    Abstract: "must define __init__, step",
    NoOptions: "must define Options, a frozen dataclass",
    PlainOptions: "must define Options, a frozen dataclass",
    OpenOptions: "must define Options, a frozen dataclass",
}


@pytest.mark.parametrize("loop", CLASSES)
def test_a_loop_that_lacks_a_part_is_one_line(loop):
    name = f"test_own_outer_loop:{loop.__name__}"
    with pytest.raises(UsageError, match=f"^--outer {name} {CLASSES[loop]}$"):
        Config("envs:Navigation2D-v0", outer=name)


class InstanceCheck(Own):
    def check(self, options):
        pass


class StaticCheck(Own):
    @staticmethod
    def check(options):
        raise UsageError(f"not with {options.inner_steps} inner steps")


def test_a_check_is_a_method_of_the_class():
    name = "test_own_outer_loop:InstanceCheck"
    with pytest.raises(UsageError) as error:
        Config("envs:Navigation2D-v0", outer=name)
    assert str(error.value) == (
        f"--outer {name}: check must be a static or class method that takes the options of the "
        "run: it is called before the loop is made"
    )
    with pytest.raises(UsageError, match="not with 1 inner steps"):
        Config("envs:Navigation2D-v0", outer="test_own_outer_loop:StaticCheck")


class NeedyOptions(NoOptions):
    Options = dataclasses.make_dataclass("Needy", [("must", float)], frozen=True, kw_only=True)


def test_an_option_without_default_is_one_line_on_the_command_line(capsys):
    name = "test_own_outer_loop:NeedyOptions"
    with pytest.raises(SystemExit):
        main(["train", "--family", "envs:Navigation2D-v0", "--outer", name])
    assert capsys.readouterr().err == (
        f"error: --outer {name}: its option must has no default, as every option of a command "
        "line needs one\n"
    )
    assert Config("envs:Navigation2D-v0", outer=name, must=2.0).must == 2


def without(parameters, name):
    return {n: p for n, p in parameters.items() if n != name}


STEPS = {
    "must return (parameters, metrics), not a dict": lambda theta: theta,
    "must return (parameters, metrics), not None": lambda theta: None,
    "must return the parameters that it gets, ": lambda theta: (without(theta, "log_std"), {}),
    "returns log_std as a tensor [1] of torch.float32, not a tensor [2] of torch.float32": (
        lambda theta: (theta | {"log_std": theta["log_std"][:1]}, {})
    ),
    "returns log_std as an array [2] of float32, not": (
        lambda theta: (theta | {"log_std": theta["log_std"].numpy()}, {})
    ),
    "returns log_std as a tensor [2] of torch.float64, not": (
        lambda theta: (theta | {"log_std": theta["log_std"].double()}, {})
    ),
    "metrics.outer/kl is 'low', not a number": lambda theta: (theta, {"outer/kl": "low"}),
    "metrics.outer/kl is tensor(1.), not a number": (
        lambda theta: (theta, {"outer/kl": torch.ones(())})
    ),
    "must return its metrics as a dict, not None": lambda theta: (theta, None),
}


@pytest.fixture
def learner():
    sizes = {"meta_batch_size": 2, "episodes": 2, "horizon": 3, "device": "cpu"}
    return Learner(Config("envs:Navigation2D-v0", outer="test_own_outer_loop:Own", **sizes))


@pytest.mark.parametrize("message", STEPS)
def test_a_step_of_another_form_is_one_line(message, learner, monkeypatch):
    monkeypatch.setattr(Own, "step", lambda self, objective, theta: STEPS[message](theta))
    before = learner.parameters
    with pytest.raises(UsageError) as error:
        learner.iterate()
    assert str(error.value).startswith("Own.step")
    assert message in str(error.value)
    assert learner.iteration == 0
    assert all(torch.equal(p, before[n]) for n, p in learner.parameters.items())


BEGINNINGS = {
    "Own.begin must return a Start, not None": lambda theta: None,
    "Own.begin must return the parameters that it gets, ": (
        lambda theta: Start(expand(without(theta, "log_std"), 2))
    ),
    "Own.begin returns layer_0.weight as a tensor [2, 64] of torch.float32, not a": Start,
    "Own.begin returns layer_0.weight as a tensor [3, 2, 64] of torch.float32, not a": (
        lambda theta: Start(expand(theta, 3))
    ),
    "Own.begin: 2 tasks are not 3 times the same ones": lambda theta: Start(expand(theta, 2), 3),
}


@pytest.mark.parametrize("message", BEGINNINGS)
def test_a_beginning_of_another_form_is_one_line(message, learner, monkeypatch):
    monkeypatch.setattr(Own, "begin", lambda self, theta, tasks, key: BEGINNINGS[message](theta))
    with pytest.raises(UsageError) as error:
        learner.iterate()
    assert str(error.value).startswith(message)


def test_a_step_may_return_parameters_with_a_graph(learner, monkeypatch):
    def step(self, objective, theta):
        return {n: p.clone().requires_grad_() * 2 for n, p in theta.items()}, {}

    monkeypatch.setattr(Own, "step", step)
    for _ in range(2):
        learner.iterate()
    assert not any(p.requires_grad for p in learner.parameters.values())


@pytest.mark.parametrize("name", ["state", "load_state"])
def test_a_loop_that_only_saves_or_only_loads_is_refused(name):
    """Resumed, it went on without what it had saved."""
    with pytest.raises(UsageError, match=f"Half has {name} but not "):
        type("Half", (OuterLoop,), {name: lambda self, *state: {}})


UNKEPT = {
    r"outer\.f is <function .*>": lambda: {"f": lambda: None},
    r"outer\.x\.1 is <object .*>": lambda: {"x": [1, object()]},
    r"outer\.mean is an array \[2\] of float64": lambda: {"mean": np.zeros(2)},
    r"its outer cannot be copied: TypeError: cannot pickle '_thread\.lock'": lambda: {
        "lock": Lock()
    },
}


@pytest.mark.parametrize("message", UNKEPT)
def test_a_state_that_no_checkpoint_can_hold_is_one_line(message, learner, monkeypatch, tmp_path):
    monkeypatch.setattr(Own, "state", lambda self: UNKEPT[message]())
    config = dataclasses.replace(
        learner.config, iterations=2, checkpoint_every=1, eval_every=0, run_dir=tmp_path
    )
    with pytest.raises(UsageError, match=message):
        train(config)
    assert not list(tmp_path.glob("checkpoints/*"))
