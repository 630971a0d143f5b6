"""A learner outside metarl, in one file: trained, evaluated, adapted, plotted and compared."""

import json
import shutil
from pathlib import Path

import forked
import pytest
import torch

FILE = Path(__file__).parents[1] / "experiments" / "own_learner" / "beta_bandit.py"
FAMILY = "envs:BernoulliBandit-v0"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """An installed package that announces the learner as `beta-bandit`."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(FILE, folder)
    info = folder / "beta_bandit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: beta-bandit\nVersion: 1.0\n")
    entry = "[metarl.learners]\nbeta-bandit = beta_bandit:BetaBandit\n"
    (info / "entry_points.txt").write_text(entry)
    return folder


def metarl(*arguments, cwd, package, status=0):
    return output_of(forked.metarl(*arguments, cwd=cwd, path=[package]), status)


def output_of(result, status=0):
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def run(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = ["--iterations", "20", "--eval-every", "10", "--eval-tasks", "100"]
    metarl(
        *("train", "--learner", "beta-bandit", "--family", FAMILY, *options),
        *("--run-dir", "run"),
        cwd=folder,
        package=package,
    )
    return folder


def test_it_is_trained_and_learns_the_prior(run):
    """The arms' probabilities are uniform over [0, 1], which is Beta(1, 1)."""
    config = json.loads((run / "run/config.json").read_text())["config"]
    assert config["learner"] == "beta-bandit"
    metrics = [json.loads(line) for line in (run / "run/metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 20
    # Of 4,000 arms; with the pulls after adaptation it would be 1.3.
    assert metrics[-1]["prior/a"] == pytest.approx(1, abs=0.15)
    assert metrics[-1]["prior/b"] == pytest.approx(1, abs=0.15)
    # Ten pulls of five arms without knowledge pay 1/2 on average; after them it pays more.
    assert metrics[-1]["test/step_0/mean"] == pytest.approx(0.5, abs=0.05)
    assert metrics[-1]["test/step_1/mean"] > 0.6


def test_it_is_resumed(run, package):
    output = metarl(
        *("train", "--resume", "--run-dir", "run", "--iterations", "21"), cwd=run, package=package
    )
    assert "iterations 21 to 21" in output


def test_it_is_evaluated_plotted_and_adapted(run, package):
    metarl("evaluate", "run", "--steps", "3", "--tasks", "50", cwd=run, package=package)
    steps = json.loads((run / "run/evaluation.json").read_text())["splits"]["test"]["steps"]
    assert len(steps) == 4
    assert steps[3]["mean"]["value"] > steps[0]["mean"]["value"] + 0.1
    metarl("plot", "run", cwd=run, package=package)
    assert (run / "curves.png").stat().st_size > 10_000
    task = "probability=.1,.1,.9,.1,.1"
    metarl(
        "adapt", "run", "--task", task, "--steps", "5", "--out", "policy", cwd=run, package=package
    )
    program = torch.export.load(run / "policy/policy.pt2").module()
    assert program(torch.zeros(3, 1)).tolist() == [2, 2, 2]


def test_it_is_compared_with_maml(run, package):
    small = ["--iterations", "1", "--seeds", "1", "--meta-batch-size", "4", "--episodes", "4"]
    result = forked.compare(
        *("--family", FAMILY, "--algorithms", "beta-bandit", "maml-pg", *small),
        *("--eval-tasks", "5", "--run-dir", "compared"),
        cwd=run,
        path=[package],
    )
    assert "beta-bandit, seed 1: finished\n" in output_of(result)
    lines = (run / "compared/comparison.csv").read_text()
    assert "maml-pg" in lines
    assert "beta-bandit" in lines


def test_its_options_are_on_the_command_line(run, package):
    arguments = ["train", "--learner", "beta-bandit", "--family", FAMILY, "--temperature", "0"]
    output = metarl(*arguments, cwd=run, package=package, status=2)
    assert output == "error: --temperature 0.0 must be a number above 0\n"
    assert "--temperature" in metarl(*arguments[:3], "--help", cwd=run, package=package)


def test_a_learner_that_does_not_exist_is_one_line(run, package):
    output = metarl(
        "train", "--learner", "beta-bandt", "--family", FAMILY, cwd=run, package=package, status=2
    )
    assert output.startswith("error: --learner beta-bandt must be one of ")
    assert output.endswith("did you mean beta-bandit?\n")
