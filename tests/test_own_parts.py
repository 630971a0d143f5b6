"""Parts outside metarl, each in a file of its own beside the run or in an installed package."""

import csv
import json
import math
import pickle
import shutil
from pathlib import Path

import forked
import pytest
import torch
from entropy_bonus import WEIGHT, with_entropy
from momentum import Momentum, MomentumOptions
from time_mean import time_mean
from unit_step import unit_step

from metarl import Config, Learner, UsageError
from metarl.cli.main import main
from metarl.maml.estimators import lvc
from metarl.sampling.data import Rollout

FOLDER = Path(__file__).parents[1] / "experiments" / "own_parts"
FILES = {
    "estimator": "entropy_bonus:with_entropy",
    "inner-update": "unit_step:unit_step",
    "outer": "momentum:Momentum",
    "baseline": "time_mean:time_mean",
    "sinks": "csv_sink:CsvSink",
}
GROUPS = {
    "estimator": "metarl.estimators",
    "inner-update": "metarl.inner_updates",
    "outer": "metarl.outer_loops",
    "baseline": "metarl.baselines",
    "sinks": "metarl.sinks",
}
SMALL = (
    *("--family", "envs:Navigation2D-v0", "--meta-batch-size", "2", "--episodes", "2"),
    *("--horizon", "4", "--hidden-sizes", "4", "--eval-every", "0", "--checkpoint-every", "1"),
)


def options(values):
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def metarl(*arguments, cwd, path=(), status=0):
    result = forked.metarl(*arguments, cwd=cwd, path=path)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with the files of the parts, and a run with all of them."""
    folder = tmp_path_factory.mktemp("own")
    for file in FOLDER.glob("*.py"):
        shutil.copy(file, folder)
    own = [*options(FILES), "--momentum", "0.9", "--outer-lr", "0.1"]
    metarl("train", *SMALL, *own, "--iterations", "2", "--run-dir", "run", cwd=folder)
    return folder


def test_a_run_with_parts_beside_it_records_and_resumes_them(folder):
    config = json.loads((folder / "run/config.json").read_text())["config"]
    assert config["momentum"] == 0.9
    for name, part in FILES.items():
        held = config[name.replace("-", "_")]
        assert held == ([part] if name == "sinks" else part)
    resumed = ("train", "--resume", "--run-dir", "run", "--iterations", "3")
    assert "iterations 3 to 3" in metarl(*resumed, cwd=folder)
    with open(folder / "run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    after = [float(row["value"]) for row in rows if row["name"] == "return/after"]
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    assert after == [json.loads(line)["return/after"] for line in lines]
    assert len(after) == 3


def test_the_run_is_evaluated(folder):
    metarl("evaluate", "run", "--tasks", "2", "--splits", "test", cwd=folder)
    assert (folder / "run/evaluation.json").exists()


def test_a_package_announces_parts(folder, tmp_path):
    site = tmp_path / "site"
    info = site / "own_parts-1.0.dist-info"
    info.mkdir(parents=True)
    for file in FOLDER.glob("*.py"):
        shutil.copy(file, site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-parts\nVersion: 1.0\n")
    sections = (f"[{GROUPS[name]}]\nmine = {part}\n" for name, part in FILES.items())
    (info / "entry_points.txt").write_text("\n".join(sections))
    own = options(dict.fromkeys(FILES, "mine"))
    run = ("--iterations", "1", "--run-dir", "run")
    metarl("train", *SMALL, *own, *run, cwd=tmp_path, path=[site])
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["baseline"] == "mine"
    assert (tmp_path / "run/metrics.csv").exists()
    output = metarl("evaluate", "run", cwd=tmp_path, status=2)
    assert output == (
        "error: the run has --estimator mine, which no installed package announces: install the "
        "package that has it\n"
    )


WRONG = {
    "--estimator entropy_bonus:with_entrpy": "module entropy_bonus has no with_entrpy",
    "--estimator entropy_bonu:with_entropy": "--estimator entropy_bonu:with_entropy: there is "
    "no module entropy_bonu here",
    "--estimator lcv": "--estimator lcv must be one of naive, lvc, dice, loaded_dice, taypo2, "
    "first_order, or MODULE:FUNCTION; did you mean lvc?",
    "--estimator entropy_bonus:WEIGHT": "must be a function of (log_probs, batch)",
    "--inner-update time_mean:FILE": "module time_mean has no FILE",
    "--inner-update entropy_bonus:with_entropy": "must be a function of (parameters, gradients",
    "--baseline unit_step:SMALLEST_NORM": "must be a function of (rollout, discounted, discount)",
    "--outer momentum:MomentumOptions": "must be a subclass of metarl.outer.loop.OuterLoop",
    "--outer momentum:Momentum --momentum 2": "--momentum 2.0 must be a number of at least 0",
    "--outer momentm": "--outer momentm must be one of trpo, ppo, gradient",
    "--sinks csv_sink:FILE": "must be a class that is made from (run_id, folder, options)",
    "--simulation momentum:Momentum": "must be a class with the methods of",
    "--learner momentum:Momentum": "must be a subclass of metarl.BaseLearner",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_what_is_no_such_part_is_one_line(arguments, tmp_path, capsys):
    run = ("--iterations", "1", "--run-dir", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["train", *SMALL, *arguments.split(), *run])
    error = capsys.readouterr().err
    assert WRONG[arguments] in error
    assert error.count("\n") == 1


def test_options_of_an_outer_loop_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--family", "x", "--outer", "momentum:Momentum", "--help"])
    output = capsys.readouterr().out
    assert "--momentum" in output
    assert "Share of the last step" in output


def test_options_of_an_outer_loop_are_those_of_the_configuration():
    config = Config("x", outer="momentum:Momentum", momentum=0.25, run_dir=Path("run"))
    assert isinstance(config, MomentumOptions)
    assert pickle.loads(pickle.dumps(config)) == config  # for the processes of --seeds
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert not isinstance(Config("x"), MomentumOptions)
    with pytest.raises(TypeError, match="momentum"):
        Config("x", momentum=0.25)


SHAPES = {
    "estimator": ("test_own_parts:scalar", r"the estimator returns shape \(\), not one number for"),
    "inner_update": ("test_own_parts:forgets", "must return the parameters that it gets"),
    "baseline": ("test_own_parts:transposed", r"the baseline returns shapes \(1, 4, 2\) and \(1,"),
}


def scalar(log_probs, batch):
    return log_probs.mean()


def forgets(parameters, gradients, step_size):
    return {}


def transposed(rollout, discounted, discount):
    return discounted.mT, discounted[..., 0]


@pytest.mark.parametrize("name", SHAPES)
def test_results_of_another_shape_are_one_line(name):
    part, message = SHAPES[name]
    sizes = {"meta_batch_size": 2, "episodes": 2, "horizon": 4, "device": "cpu"}
    with pytest.raises(UsageError, match=message):
        Learner(Config("envs:Navigation2D-v0", **{name: part}, **sizes)).iterate()


def test_the_estimator_adds_the_entropy_to_the_objective(policy, theta, make_random_batch):
    """∇ E[log π] = ∇ Σ p log p, so that the difference to lvc is that of w H where it counts."""
    batch = make_random_batch(0)
    log_probs = batch.log_probs.clone().requires_grad_()
    difference = with_entropy(log_probs, batch) - lvc(log_probs, batch)
    (gradient,) = torch.autograd.grad(difference.sum(), log_probs)
    number = batch.weight.sum((1, 2), keepdim=True)
    torch.testing.assert_close(gradient, -WEIGHT * batch.log_probs * batch.weight / number)


def test_every_task_moves_by_the_step_size():
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 4, 5), "bias": (3, 5)}
    before, gradients = (
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(2)
    )
    after = unit_step(before, gradients, lambda name: 0.3)
    moved = torch.cat([(after[name] - before[name]).flatten(1) for name in shapes], 1)
    torch.testing.assert_close(moved.norm(dim=1), torch.full((3,), 0.3))


def test_momentum_finds_the_maximum_of_a_paraboloid():
    class Paraboloid:
        """−‖θ − 1‖², whose maximum is at 1."""

        def value(self, parameters):
            return -float((parameters["theta"] - 1).square().sum()), 0.0

        def gradient(self, parameters):
            return self.value(parameters)[0], {"theta": -2 * (parameters["theta"] - 1)}

    loop, parameters = Momentum(MomentumOptions(outer_lr=0.1)), {"theta": torch.zeros(3)}
    for _ in range(50):
        parameters, _ = loop.step(Paraboloid(), parameters)
    assert torch.allclose(parameters["theta"], torch.ones(3), atol=1e-3)


def test_the_baseline_by_hand():
    """Two episodes: rewards 1, 2 and 4, the second of which is one step long."""
    valid = torch.tensor([[[True, True], [True, False]]])
    discounted = torch.tensor([[[2.0, 2.0], [4.0, 0.0]]], dtype=torch.float64)
    zeros = torch.zeros(1, 2, 2)
    rollout = Rollout(
        observations=zeros.unsqueeze(-1),
        actions=zeros.unsqueeze(-1),
        log_probs=zeros,
        rewards=zeros.double(),
        valid=valid,
        terminated=torch.zeros(1, 2, dtype=torch.bool),
        final_observations=torch.zeros(1, 2, 1),
    )
    values, final = time_mean(rollout, discounted, 0.5)
    assert values.tolist() == [[[3, 2], [3, 0]]]
    assert final.tolist() == [[0, 0]]
    assert not math.isnan(float(values.sum()))
