"""Minutes of training each: that the policies do learn to adapt. Run with `pytest -m learning`."""

import pytest

from metarl import Config, Learner

pytestmark = pytest.mark.learning


def test_a_cheetah_learns_to_learn_its_direction():
    *_, last = Learner(Config(family="envs:HalfCheetahDir-v0", device="cpu")).learn(40)
    assert last["return/gain"] > 60
    assert abs(last["return/before"]) < 15, "one policy cannot run both ways"


def test_a_point_learns_to_learn_its_goal():
    learner = Learner(Config(family="envs:Navigation2D-v0", meta_batch_size=20, device="cpu"))
    *_, last = learner.learn(60)
    held_out = learner.evaluate(tasks=40).metrics()
    assert held_out["test/step_1/low"] > held_out["test/step_0/high"] + 5
    assert last["return/gain"] > 5
