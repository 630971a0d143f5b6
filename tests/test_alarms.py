"""Each alarm sounds on a history that is made to sound it, once, and not on a healthy one."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from metarl import Config, Learner, train
from metarl.runs.alarms import ALARMS, already_raised, raised

CONFIG = Config("envs:Navigation2D-v0")


def history(changes=None, number=60):
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
    made = healthy | (changes or {})
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
        ("no gain", {"return/gain": lambda: NOISE.normal(0, 5)}),
        ("no step", {"outer/accepted": lambda: 0.0, "outer/kl": lambda: 0.0}),
        ("certain", {"policy/std": lambda: 0.01}),
        ("wrong KL", {"outer/kl": lambda: 0.0005}),
        ("hurts", {"return/hurt": lambda: 0.8}),
        ("noisy gradient", {"outer/agreement": lambda: NOISE.normal(0, 0.1)}),
        ("not finite", {"non_finite/skipped": lambda: 1.0}),
        ("not finite", {"non_finite/dropped_tasks": lambda: 1.0}),
    ],
)
def test_each_alarm_sounds(name, changes):
    assert set(raised(history(changes), CONFIG)) == {name}


def test_the_docs_list_all_alarms():
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "curves.md").read_text()
    listed = re.findall(r"^\| `(.*?)` \|", page.partition("## Alarms")[2], re.MULTILINE)
    assert sorted(listed) == sorted(ALARMS)


def test_a_few_updates_that_were_left_out_raise_none():
    metrics = history({"non_finite/skipped": lambda: 0.0})
    for m in metrics[-4:]:
        m["non_finite/skipped"] = 1.0
    assert raised(metrics, CONFIG) == {}


def test_a_categorical_policy_is_judged_by_its_entropy():
    metrics = history({"policy/entropy": lambda: 0.001})
    for m in metrics:
        del m["policy/std"]
    assert set(raised(metrics, CONFIG)) == {"certain"}


def test_no_alarm_before_there_is_enough_to_judge():
    bad = {"return/hurt": lambda: 0.9, "policy/std": lambda: 0.01}
    assert raised(history(bad, 9), CONFIG) == {}
    assert raised(history(bad), CONFIG)


def test_what_does_not_adapt_is_not_blamed_for_it():
    joint = dataclasses.replace(CONFIG, inner_steps=0)
    bad = {"return/gain": lambda: 0.0, "return/hurt": lambda: 0.9}
    assert raised(history(bad), joint) == {}


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
