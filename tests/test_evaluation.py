import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarl.evaluation import Evaluation, interquartile_mean


def evaluation(returns, seed=0):
    return Evaluation("test", {}, np.asarray(returns), np.random.default_rng(seed))


def test_the_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -100])) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean(np.array([1.0, 2.0])) == 1.5


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.randoms())
def test_the_interquartile_mean_lies_within_and_knows_no_order(values, random):
    mean = interquartile_mean(np.array(values))
    assert min(values) - 1e-6 <= mean <= max(values) + 1e-6
    random.shuffle(values)
    assert interquartile_mean(np.array(values)) == pytest.approx(mean)


def test_the_interval_is_that_of_the_mean_over_tasks():
    """For many tasks, mean ± 1.96 σ/√n."""
    returns = np.random.default_rng(1).normal(10, 3, (2, 400))
    metrics = evaluation(returns).metrics()
    for k in range(2):
        half = 1.96 * returns[k].std() / 20
        mean = returns[k].mean()
        assert metrics[f"test/step_{k}/mean"] == pytest.approx(mean)
        assert metrics[f"test/step_{k}/low"] == pytest.approx(mean - half, abs=0.15 * half)
        assert metrics[f"test/step_{k}/high"] == pytest.approx(mean + half, abs=0.15 * half)


def test_one_task_has_an_interval_of_no_width():
    metrics = evaluation([[2.5]]).metrics()
    assert metrics["test/step_0/low"] == metrics["test/step_0/high"] == 2.5
