"""Each alarm sounds on a history that is made to sound it, once, and not on a healthy one."""

import dataclasses

import numpy as np
import pytest

from metarl import Config, Learner, train
from metarl.runs.alarms import ALARMS, already_raised, raised

CONFIG = Config("envs:Navigation2D-v0")


def history(number=60, **changes):
    rng = np.random.default_rng(0)
    healthy = {
        "return/gain": lambda: 10 + rng.normal(),
        "return/hurt": lambda: 0.1,
        "outer/accepted": lambda: 1.0,
        "outer/kl": lambda: 0.0098,
        "outer/agreement": lambda: 0.3 + 0.2 * rng.normal(),
        "policy/std": lambda: 0.7,
        "policy/entropy": lambda: 1.5,
    }
    made = {**healthy, **{name.replace("_", "/", 1): make for name, make in changes.items()}}
    return [
        {"iteration": i + 1.0, **{name: float(make()) for name, make in made.items()}}
        for i in range(number)
    ]


def test_a_healthy_run_raises_none():
    assert raised(history(), CONFIG) == {}
    assert already_raised(history(), CONFIG) == set()


NOISE = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("no gain", {"return_gain": lambda: NOISE.normal(0, 5)}),
        ("no step", {"outer_accepted": lambda: 0.0, "outer_kl": lambda: 0.0}),
        ("certain", {"policy_std": lambda: 0.01}),
        ("wrong KL", {"outer_kl": lambda: 0.0005}),
        ("hurts", {"return_hurt": lambda: 0.8}),
        ("noisy gradient", {"outer_agreement": lambda: NOISE.normal(0, 0.1)}),
    ],
)
def test_each_alarm_sounds(name, changes):
    assert set(raised(history(**changes), CONFIG)) == {name}
    assert len(ALARMS) == 6


def test_a_categorical_policy_is_judged_by_its_entropy():
    metrics = history(policy_entropy=lambda: 0.001)
    for m in metrics:
        del m["policy/std"]
    assert set(raised(metrics, CONFIG)) == {"certain"}


def test_no_alarm_before_there_is_enough_to_judge():
    assert raised(history(9, return_hurt=lambda: 0.9, policy_std=lambda: 0.01), CONFIG) == {}


def test_what_does_not_adapt_is_not_blamed_for_it():
    joint = dataclasses.replace(CONFIG, inner_steps=0)
    assert raised(history(return_gain=lambda: 0.0, return_hurt=lambda: 0.9), joint) == {}


def test_an_alarm_is_told_once_and_not_again_by_a_resumed_run(tmp_path, capsys, monkeypatch):
    iterate = Learner.iterate
    monkeypatch.setattr(Learner, "iterate", lambda learner: iterate(learner) | {"policy/std": 0.01})
    config = Config(
        "envs:Navigation2D-v0",
        iterations=12,
        meta_batch_size=2,
        episodes=2,
        horizon=3,
        hidden_sizes=(4,),
        eval_every=0,
        run_dir=tmp_path,
    )
    train(config)
    assert capsys.readouterr().out.count("hardly explores any more") == 1
    train(dataclasses.replace(config, iterations=14, resume=True))
    assert "hardly explores any more" not in capsys.readouterr().out
