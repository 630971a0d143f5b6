"""`--preset tuned`: options that a family ships for an algorithm or a learner."""

import json
import pickle
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import gymnasium
import numpy as np
import pytest

from metarl import train
from metarl.cli.main import main
from metarl.learners.maml_config import MAMLConfig
from metarl.learners.presets import ALGORITHMS, CONTROLS, shipped_options, tuned_options
from metarl.learners.registry import LEARNERS
from metarl.learners.rl2 import RL2Config
from metarl.studies.comparison import Comparison
from metarl.support.errors import UsageError
from metarl.tasks.family import make_family
from metarl.tasks.registry import registered_families

FAMILY = f"{__name__}:Tuned-v0"
TINY = ("--iterations", "1", "--horizon", "3", "--eval-every", "0")
SIZES = ("--meta-batch-size", "2", "--episodes", "2")


class Tuned(gymnasium.Env):
    """An environment with tuned options, as a user writes one."""

    tuned: ClassVar = {
        "maml-trpo": {"inner_lr": 0.3, "gae_lambda": 1.0, "hidden_sizes": [8, 8]},
        "promp": {"inner_lr": 0.2, "meta_batch_size": 3},
        "rl2": {"action_scale": 2.0, "trials": 7},
    }
    tuned_for_all: ClassVar = {
        "maml": {"inner_lr": 0.7, "inner_steps": 2, "gae_lambda": 0.6},
        "promp": {"gae_lambda": 0.5},
    }

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.task_space = gymnasium.spaces.Dict(place=gymnasium.spaces.Box(-1.0, 1.0, ()))
        self.task = {"place": 0.0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -abs(action[0] - self.task["place"]), False, False, {}


gymnasium.register("Tuned-v0", entry_point=Tuned, max_episode_steps=3)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["config"]


def test_what_is_typed_stands_over_the_familys_options(tmp_path, capsys):
    options = ("--family", FAMILY, "--preset", "tuned", "--inner-lr", "0.4", *TINY, *SIZES)
    main(["train", *options, "--run-dir", str(tmp_path)])
    config = config_of(tmp_path)
    assert config["preset"] == "tuned"
    assert (config["inner_lr"], config["gae_lambda"], config["hidden_sizes"]) == (0.4, 1.0, [8, 8])
    told = f"preset of {FAMILY} for maml-trpo: --inner-lr 0.4, --gae-lambda 1.0, --hidden-sizes"
    assert told in capsys.readouterr().out
    main(["train", "--resume", "--run-dir", str(tmp_path), "--iterations", "2"])
    assert config_of(tmp_path) == config | {"iterations": 2, "resume": True}
    with pytest.raises(SystemExit):
        main(["train", "--resume", "--run-dir", str(tmp_path), "--preset", "none"])
    assert "--preset none: a resumed run keeps its options" in capsys.readouterr().err


def test_a_run_with_the_same_options_typed_is_that_of_the_preset(tmp_path):
    config = MAMLConfig(
        family=FAMILY, iterations=1, horizon=3, eval_every=0, meta_batch_size=2, episodes=2,
        inner_lr=0.3, gae_lambda=1.0, hidden_sizes=(8, 8), run_dir=tmp_path,
    )  # fmt: skip
    train(config)
    train(replace(config, preset="tuned", resume=True, iterations=2))
    assert config_of(tmp_path)["preset"] == "tuned"
    with pytest.raises(UsageError, match="--inner-lr"):
        train(replace(config, inner_lr=0.1, preset="tuned", resume=True, iterations=3))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (("--algorithm", "promp", "--meta-batch-size", "2"), {"inner_lr": 0.2, "outer": "ppo"}),
        (("--learner", "rl2"), {"action_scale": 2.0, "trials": 7}),
    ],
)
def test_each_algorithm_and_learner_has_its_own(tmp_path, choice, expected):
    main(
        [
            *("train", "--family", FAMILY, "--preset", "tuned", *choice, "--episodes", "2", *TINY),
            *("--run-dir", str(tmp_path)),
        ]
    )
    config = config_of(tmp_path)
    assert {name: config[name] for name in expected} == expected


def test_options_for_all_algorithms_lie_below_what_makes_an_algorithm_up():
    family = SimpleNamespace(tuned=Tuned.tuned_for_all, id=FAMILY)
    shared = Tuned.tuned_for_all["maml"]
    assert tuned_options(family, "maml-trpo") == shared
    assert tuned_options(family, "promp") == shared | {"gae_lambda": 0.5}
    assert tuned_options(family, "cavia") == {"inner_steps": 2, "gae_lambda": 0.6}
    assert tuned_options(family, "oracle") == {"inner_lr": 0.7, "gae_lambda": 0.6}
    assert shipped_options(family, "rl2") == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--family", FAMILY, "--algorithm", "anil"),
            "ships options for maml-trpo, promp, rl2 alone, not for anil",
        ),
        (("--family", "envs:ReacherGoal-v0"), "ReacherGoal-v0 ships no options: omit --preset"),
        (("--family", "envs:Navigation2D-v0", "--preset", "tunde"), "tunde"),
    ],
)
def test_where_there_are_none_the_message_says_so(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as exit:
        main(["train", "--preset", "tuned", *options, *TINY, "--run-dir", str(tmp_path / "run")])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_comparison_takes_those_that_there_are_and_keeps_its_own_sizes():
    plain = Comparison(family=FAMILY, algorithms=("promp", "anil"), meta_batch_size=5, episodes=4)
    tuned = Comparison(**(vars(plain) | {"preset": "tuned"}))
    assert plain.config("promp", 1).inner_lr != 0.2
    promp = tuned.config("promp", 1)
    assert (promp.inner_lr, promp.meta_batch_size, promp.preset) == (0.2, 5, "tuned")
    assert tuned.config("anil", 1).inner_lr == plain.config("anil", 1).inner_lr
    rl2 = tuned.config("rl2", 1)
    assert (rl2.action_scale, rl2.trials) == (2.0, 5)
    assert rl2.iterations == plain.config("rl2", 1).iterations


def test_a_configuration_has_the_options_that_its_names_stand_for():
    """In Python as on the command line; the run was called promp and trained maml-trpo."""
    promp = MAMLConfig(FAMILY, algorithm="promp")
    assert promp == MAMLConfig.of("promp", family=FAMILY)
    assert (promp.outer, promp.estimator, promp.inner_lr) == ("ppo", "lvc", 0.1)
    tuned = MAMLConfig(FAMILY, algorithm="promp", estimator="naive", preset="tuned")
    assert (tuned.outer, tuned.estimator, tuned.inner_lr) == ("ppo", "naive", 0.2)
    assert replace(tuned, inner_lr=0.1).inner_lr == 0.1
    assert pickle.loads(pickle.dumps(tuned)) == tuned
    assert RL2Config(FAMILY, preset="tuned").action_scale == 2.0
    with pytest.raises(UsageError, match="alone, not for anil"):
        MAMLConfig(FAMILY, preset="tuned", algorithm="anil")


def test_a_run_keeps_the_options_that_it_was_trained_with():
    """What an older version did not write was the default, not what the algorithm has now."""
    held = MAMLConfig.of("e-maml", family="a:B-v0").to_json() | {"preset": "tuned"}
    assert MAMLConfig.from_json(held).correction_over_steps == "mean"
    del held["correction_over_steps"]
    assert MAMLConfig.from_json(held).correction_over_steps == "sum"


@pytest.mark.parametrize("name", registered_families())
def test_what_shipped_families_ship_can_be_trained(name):
    family = make_family(name)
    assert set(family.tuned) <= {*ALGORITHMS, *CONTROLS, *LEARNERS.names()}
    for algorithm in ALGORITHMS | CONTROLS:
        preset = "tuned" if shipped_options(family, algorithm) else "none"
        MAMLConfig.of(algorithm, family=name, preset=preset)
    preset = "tuned" if shipped_options(family, "rl2") else "none"
    LEARNERS.find("rl2").Config(family=name, preset=preset)
