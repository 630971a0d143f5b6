"""Distributions of task parameters: their moments, their splits, and the way to JSON and back."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarl.support.errors import UsageError
from metarl.tasks.distributions import (
    Ball,
    Choice,
    Dirichlet,
    LogUniform,
    Normal,
    TaskDistribution,
    Uniform,
)
from metarl.tasks.family import make_family

EACH = [
    Uniform(-1.0, 2.0, (2,), beyond=(-1.0, 3.0), unit="m"),
    LogUniform(0.5, 8.0, beyond=(0.25, 16.0)),
    Normal(1.0, 2.0, (3,)),
    Ball(3.0, 2, beyond=4.0, unit="m"),
    Dirichlet(1.0, (2, 3)),
    Choice((-1.0, 0.0, 1.0)),
    Choice(((0, 1), (2, 3), (4, 5))),
]


def draws(distribution, number=4000, split="train"):
    generator = np.random.default_rng(0)
    return np.array(
        [TaskDistribution(x=distribution).sample(generator, split)["x"] for _ in range(number)]
    )


@pytest.mark.parametrize("distribution", EACH, ids=str)
def test_a_distribution_is_the_same_after_json(distribution):
    tasks = TaskDistribution(x=distribution)
    again = TaskDistribution.from_json(json.loads(json.dumps(tasks.to_json())))
    assert again == tasks
    assert again.splits == tasks.splits
    for split in tasks.splits:
        one, other = (t.sample(np.random.default_rng(1), split) for t in (tasks, again))
        np.testing.assert_array_equal(one["x"], other["x"])


@pytest.mark.parametrize("distribution", EACH, ids=str)
def test_every_draw_is_in_the_space_and_beyond_is_outside_training(distribution):
    tasks = TaskDistribution(x=distribution)
    assert ("beyond" in tasks.splits) == bool(getattr(distribution, "beyond", None))
    for split in tasks.splits:
        for value in draws(distribution, 300, split):
            assert np.asarray(value) in distribution.space
            assert distribution.holds(value) == (split != "beyond")


def test_moments():
    assert draws(Uniform(2.0, 4.0)).mean() == pytest.approx(3, abs=0.03)
    assert np.log(draws(LogUniform(0.5, 8.0))).mean() == pytest.approx(math.log(2), abs=0.04)
    normal = draws(Normal(1.0, 2.0))
    assert (normal.mean(), normal.std()) == pytest.approx((1, 2), abs=0.1)
    radii = np.linalg.norm(draws(Ball(3.0, 2)), axis=1)
    assert (radii**2).mean() == pytest.approx(4.5, rel=0.03), "uniform in the area"
    probabilities = draws(Dirichlet(1.0, (2, 3)))
    np.testing.assert_allclose(probabilities.sum(-1), 1)
    np.testing.assert_allclose(probabilities.mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(probabilities.var(0), 2 / 9 / 4, rtol=0.1)


@given(st.integers(1, 9), st.integers(1, 5))
def test_splits_of_finite_tasks_are_disjoint_where_there_are_over_two(n, m):
    tasks = TaskDistribution(x=Choice(tuple(range(n))), y=Choice(tuple(range(m))))
    generator = np.random.default_rng(0)
    train, test = (
        {tuple(map(float, tasks.sample(generator, s).values())) for _ in range(20 * n * m)}
        for s in ("train", "test")
    )
    if n * m > 2:
        assert not train & test
        assert train
        assert test
    else:
        assert train == test


def test_one_parameter_beyond_is_enough_to_be_beyond():
    tasks = TaskDistribution(
        speed=Uniform(0.0, 1.0, beyond=(0.0, 2.0)), direction=Choice((-1.0, 1.0))
    )
    for i in range(100):
        task = tasks.sample(np.random.default_rng(i), "beyond")
        assert task["speed"] > 1
        assert task["direction"] in (-1.0, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(2.0, 1.0),
        lambda: Uniform(0.0, math.inf),
        lambda: Uniform(math.nan, 1.0),
        lambda: Uniform(0.0, 2.0, beyond=(0.0, 1.0)),
        lambda: Uniform(0.0, 2.0, beyond=(0.0, 2.0)),
        lambda: LogUniform(0.0, 1.0),
        lambda: LogUniform(1.0, 2.0, beyond=(0.0, 4.0)),
        lambda: Normal(0.0, 0.0),
        lambda: Ball(-1.0, 2),
        lambda: Ball(2.0, 2, beyond=1.0),
        lambda: Ball(2.0, 2, beyond=2.0),
        lambda: Dirichlet(0.0, (2,)),
        lambda: Choice(()),
        lambda: Choice((1.0, 1.0)),
        lambda: Choice((1.0, (1.0, 2.0))),
        lambda: TaskDistribution.from_json({"x": {"kind": "Weibull"}}),
        lambda: TaskDistribution.from_json({"x": {"kind": "Uniform", "low": 0}}),
    ],
)
def test_what_makes_no_sense_is_an_error(make):
    with pytest.raises(UsageError):
        make()


def test_no_row_or_column_of_a_grid_is_held_out_as_a_whole():
    """Every fifth of 21 goals by rows of 5 would be a row of the grid."""
    family = make_family("envs:GridNavigation-v0")
    train, test = (
        {tuple(goal) for goal in family.sample_tasks(400, 0, split)["goal"].tolist()}
        for split in ("train", "test")
    )
    assert (len(train), len(test)) == (17, 4)
    assert not train & test
    for axis in (0, 1):
        assert len({goal[axis] for goal in test}) > 1
