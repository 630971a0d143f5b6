"""Parts outside metarl, each in a file of its own beside the run or in an installed package."""

import csv
import json
import pickle
import shutil
from pathlib import Path

import env_budget
import forked
import numpy as np
import pytest
from momentum import MomentumOptions

from metarl import Config, Learner, UsageError
from metarl.cli.main import main

FOLDER = Path(__file__).parents[1] / "experiments" / "own_parts"
FILES = {
    "estimator": "entropy_bonus:with_entropy",
    "inner-update": "unit_step:unit_step",
    "outer": "momentum:Momentum",
    "baseline": "time_mean:time_mean",
    "sinks": "csv_sink:CsvSink",
    "callbacks": "env_budget:env_budget",
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
        assert held == ([part] if name in ("sinks", "callbacks") else part)
    resumed = ("train", "--resume", "--trust", "--run-dir", "run", "--iterations", "3")
    assert "iterations 3 to 3" in metarl(*resumed, cwd=folder)
    with open(folder / "run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    after = [float(row["value"]) for row in rows if row["name"] == "return/after"]
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    assert after == [json.loads(line)["return/after"] for line in lines]
    assert len(after) == 3


def test_the_run_is_evaluated(folder):
    metarl("evaluate", "run", "--trust", "--tasks", "2", "--splits", "test", cwd=folder)
    assert (folder / "run/evaluation.json").exists()


def test_the_callback_ends_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(env_budget, "BUDGET", 20)  # 2 stages, tasks and episodes of 4 steps: 32
    own = ("--callbacks", FILES["callbacks"], "--iterations", "3", "--run-dir", str(tmp_path))
    main(["train", *SMALL, *own])
    assert "iteration 1: 32 environment steps are taken\n" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "checkpoints" / "000001").exists()


def test_a_package_announces_parts(folder, tmp_path):
    site = tmp_path / "site"
    info = site / "own_parts-1.0.dist-info"
    info.mkdir(parents=True)
    for file in FOLDER.glob("*.py"):
        shutil.copy(file, site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-parts\nVersion: 1.0\n")
    sections = (
        f"[{GROUPS[name]}]\nmine = {part}\n" for name, part in FILES.items() if name in GROUPS
    )
    (info / "entry_points.txt").write_text("\n".join(sections))
    own = options(dict.fromkeys(GROUPS, "mine"))
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
    "--estimator entropy_bonus:with_entrpy": "has no with_entrpy; did you mean with_entropy?",
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
    "--sinks csv_sink:Writer": "module csv_sink has no Writer; it has CsvSink",
    "--outer momentum:Mine": "module momentum has no Mine; it has Momentum\n",
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


SHAPES = [
    ("estimator", "scalar", r"returns a tensor \[\] of torch.float32, not a tensor \[tasks\]"),
    ("estimator", "without_result", r"the estimator returns None, not a tensor \[tasks\]"),
    ("estimator", "detached", "what the estimator returns has no gradient by log_probs"),
    ("estimator", "of_rewards", "what the estimator returns has no gradient by log_probs"),
    ("inner_update", "forgets", "must return the parameters that it gets"),
    ("inner_update", "as_arrays", r"returns \S+ as an array \[1, .*\] of float32, not a tensor"),
    ("inner_update", "detaching", "the inner update returns what has no gradient by the param"),
    ("baseline", "transposed", r"the baseline returns \(1, 4, 2\) and \(1, 2\), not two tensors"),
    ("baseline", "alone", r"the baseline returns \(1, 2, 4\), not two tensors: the values of the"),
    ("baseline", "nothing", "the baseline returns NoneType, not two tensors"),
    ("baseline", "of_numpy", "the baseline returns ndarray and ndarray, not two tensors"),
    ("inner_update", "as_float64", r"returns \S+ as a tensor .* of torch.float64, not a tensor"),
]


def scalar(log_probs, batch):
    return log_probs.mean()


def without_result(log_probs, batch):
    log_probs.mean()


def detached(log_probs, batch):
    return batch.mean(log_probs.detach() * batch.advantages)


def of_rewards(log_probs, batch):
    return batch.mean(batch.rewards)


def forgets(parameters, gradients, step_size):
    return {}


def as_arrays(parameters, gradients, step_size):
    return {name: p.detach().numpy() for name, p in parameters.items()}


def detaching(parameters, gradients, step_size):
    return {
        name: (p + step_size(name) * gradients[name]).detach() for name, p in parameters.items()
    }


def transposed(rollout, discounted, discount):
    return discounted.mT, discounted[..., 0]


def alone(rollout, discounted, discount):
    return discounted


def nothing(rollout, discounted, discount):
    pass


def of_numpy(rollout, discounted, discount):
    return np.zeros(discounted.shape), np.zeros(discounted.shape[:2])


def as_float64(parameters, gradients, step_size):
    return {
        name: (p + step_size(name) * gradients[name]).double() for name, p in parameters.items()
    }


@pytest.mark.parametrize(("kind", "part", "message"), SHAPES)
def test_results_of_another_form_are_one_line(kind, part, message):
    sizes = {"meta_batch_size": 2, "episodes": 2, "horizon": 4, "device": "cpu"}
    options = {kind: f"test_own_parts:{part}"}
    with pytest.raises(UsageError, match=message):
        Learner(Config("envs:Navigation2D-v0", **options, **sizes)).iterate()


def test_a_part_is_compared_with_metarls_as_the_page_says(folder):
    """With one seed."""
    page = FOLDER.parents[1] / "docs" / "how-to" / "own-parts.md"
    (code,) = (code for code in page.read_text().split("```text\n") if "metarl plot" in code)
    lines = code.split("```")[0].replace("1 2 3", "1").splitlines()
    for line in lines:
        program, command, *words = line.split()
        assert program == "metarl"
        if command == "train":
            words += [*SMALL[2:], "--iterations", "1"]
        metarl(command, *(w for w in words if not w.endswith(("-2", "-3"))), cwd=folder)
    rows = csv.DictReader((folder / "curves.csv").read_text().splitlines())
    names = [row["line"] for row in rows]
    assert list(dict.fromkeys(names)) == [
        "maml-trpo, outer momentum:Momentum",
        "maml-trpo, outer trpo",
    ]
