"""Which checkpoint is loaded, and runs that begin with what another one has learned."""

import dataclasses
import json

import pytest
import torch

from metarl import Config, RL2Config, UsageError, load, train
from metarl.cli.main import main
from metarl.cli.train import run_experiment

SMALL = {"family": "envs:Navigation2D-v0", "horizon": 3, "episodes": 2, "eval_tasks": 2}
MAML = {**SMALL, "meta_batch_size": 2, "hidden_sizes": (8,)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, no_figures):
    """A run of 3 iterations with all checkpoints, of which the second was the best."""
    folder = tmp_path_factory.mktemp("run")
    train(Config(**MAML, iterations=3, eval_every=1, checkpoint_every=1, run_dir=folder))
    file = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for metrics, value in zip(lines, (1.0, 3.0, 2.0), strict=True):
        metrics["test/step_1/mean"] = value
    file.write_text("".join(json.dumps(metrics) + "\n" for metrics in lines))
    return folder


@pytest.mark.parametrize(
    ("which", "iteration"), [("newest", 3), ("best", 2), ("1", 1), (1, 1), ("3", 3)]
)
def test_a_checkpoint_is_loaded_by_what_it_is(trained, which, iteration):
    assert load(trained, which).iteration == iteration


def test_the_best_of_the_checkpoints_is_kept_where_a_better_iteration_has_none(
    tmp_path, monkeypatch
):
    values = {3: 9.0, 6: 5.0, 9: 3.0, 12: 1.0}

    def evaluated(learner, *rest):
        return {"test/step_1/mean": values[learner.iteration]}

    monkeypatch.setattr("metarl.runs.run._evaluated", evaluated)
    every = {"eval_every": 3, "checkpoint_every": 2, "keep_checkpoints": 1}
    train(Config(**MAML, **every, iterations=12, run_dir=tmp_path))
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {6, 12}
    assert load(tmp_path, "best").iteration == 6


@pytest.mark.parametrize("which", ["4", "latest", "-1", "1.0"])
def test_a_checkpoint_that_is_not_there_is_told_with_those_that_are(trained, which, capsys):
    with pytest.raises(UsageError, match=f"--checkpoint {which}: .* has newest, best, 1, 2, 3"):
        load(trained, which)


def test_the_commands_take_a_checkpoint(trained, capsys):
    evaluate = ["evaluate", str(trained), "--tasks", "2", "--splits", "test", "--adaptations", "1"]
    main([*evaluate, "--checkpoint", "best"])
    assert json.loads((trained / "evaluation.json").read_text())["iteration"] == 2
    with pytest.raises(SystemExit):
        main(["adapt", str(trained), "--checkpoint", "9"])
    assert "--checkpoint 9" in capsys.readouterr().err


def test_the_commands_compute_where_they_are_asked_to(trained, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in ("evaluate", "adapt"):
        with pytest.raises(SystemExit):
            main([command, str(trained), "--device", "cuda"])
        assert "--device cuda: no GPU is available" in capsys.readouterr().err
    main(["adapt", str(trained), "--device", "cpu", "--steps", "0"])


def test_none_is_best_where_none_was_evaluated(tmp_path):
    train(Config(**MAML, iterations=1, eval_every=0, run_dir=tmp_path))
    with pytest.raises(UsageError, match=r"no checkpoint of .* was evaluated"):
        load(tmp_path, "best")


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_begins_with_what_another_has_learned(trained, tmp_path):
    fine = {**MAML, "family": "envs:NavigationCorners-v0", "init_from": str(trained)}
    begun = train(Config(**fine, iterations=0, run_dir=tmp_path / "a"))
    assert begun.iteration == 0
    assert same(begun.parameters, load(trained).parameters)
    train(Config(**fine, iterations=1, run_dir=tmp_path / "b"))
    resumed = train(Config(**fine, iterations=2, run_dir=tmp_path / "b", resume=True))
    whole = train(Config(**fine, iterations=2, run_dir=tmp_path / "c"))
    assert same(resumed.parameters, whole.parameters)
    assert not same(resumed.parameters, begun.parameters)
    config = json.loads((tmp_path / "c" / "config.json").read_text())["config"]
    assert config["init_from"] == str(trained)


def test_rl2_begins_with_the_network_of_another_run(tmp_path):
    options = {**SMALL, "trials": 2, "minibatches": 1, "hidden_size": 8}
    first = train(RL2Config(**options, iterations=1, run_dir=tmp_path / "a"))
    begun = train(
        RL2Config(**options, iterations=0, init_from=str(tmp_path / "a"), run_dir=tmp_path / "b")
    )
    assert same(dict(first.network.state_dict()), dict(begun.network.state_dict()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(**{**MAML, "hidden_sizes": (9,)}), "does not fit this run: its policy has"),
        (Config(**MAML, normalise_observations=True), "--normalise-observations"),
        (RL2Config(**SMALL), "is another learner"),
    ],
)
def test_what_does_not_fit_is_refused(trained, tmp_path, config, message):
    options = vars(config) | {"init_from": str(trained), "run_dir": tmp_path / "run"}
    with pytest.raises(UsageError, match=message):
        train(type(config)(**options))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("GridNavigation-v0", r"it has another action space, Box\(.*, not Discrete\("),
        ("HalfCheetahDir-v0", r"another observation space, Box\(.* and another action space, Box"),
    ],
)
def test_a_run_of_other_spaces_is_refused_by_their_name(trained, tmp_path, family, message):
    config = Config(**{**MAML, "family": f"envs:{family}"}, init_from=str(trained))
    with pytest.raises(UsageError, match=message) as error:
        train(dataclasses.replace(config, run_dir=tmp_path))
    assert "layer_0.weight" not in str(error.value)


@pytest.fixture(scope="module")
def own_network(tmp_path_factory):
    """A run with a network that is not the default."""
    folder = tmp_path_factory.mktemp("own") / "run"
    words = f"--policy {__name__}:Net --policy-options width 3 bias False --action-scale 2"
    main([*TRAIN, "--iterations", "1", "--run-dir", str(folder), *words.split()])
    return folder


class Net(torch.nn.Sequential):
    """Two layers of some width."""

    def __init__(self, space, outputs, width=1, bias=True):
        layers = torch.nn.Linear(2, width, bias=bias), torch.nn.Linear(width, outputs)
        super().__init__(*layers)


TRAIN = (
    *("train", "--family", SMALL["family"], "--horizon", "3", "--episodes", "2"),
    *("--meta-batch-size", "2", "--eval-every", "0"),
)


def test_options_of_the_policy_are_those_of_the_other_run(own_network, tmp_path, capsys):
    begun = [*TRAIN, "--iterations", "0", "--init-from", str(own_network)]
    learner = run_experiment(arguments=[*begun[1:], "--run-dir", str(tmp_path / "a")])
    assert f"begins with checkpoint 1 of {own_network}\n" in capsys.readouterr().out
    assert learner.config.policy_options == {"width": 3, "bias": False}
    assert learner.config.action_scale == 2.0
    assert same(learner.parameters, load(own_network).parameters)
    own = ("--policy-options", "width", "4", "--no-normalise-observations")
    with pytest.raises(SystemExit):
        main([*begun, "--run-dir", str(tmp_path / "b"), *own])
    message = "does not fit this run: its policy has --policy-options width 3, not 4\n"
    assert message in capsys.readouterr().err
    main([*begun, "--run-dir", str(tmp_path / "c"), *own, "--policy-options", "width", "3"])


def test_a_policy_of_another_function_with_the_same_weights_is_refused(trained, tmp_path):
    config = Config(**MAML, activation="relu", init_from=str(trained), run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="its policy has --activation tanh, not relu"):
        train(config)
    same_network = {"policy": "mlp", "iterations": 0, "run_dir": tmp_path / "same"}
    train(Config(**MAML, **same_network, init_from=str(trained)))


def test_where_there_is_no_run_the_message_says_so(tmp_path):
    config = Config(**MAML, init_from=str(tmp_path / "none"), run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="none is not a run folder"):
        train(config)
