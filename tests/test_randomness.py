import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarl.support.randomness import Phase, RandomKey, Use, uniform_numbers

keys = st.tuples(
    st.integers(0, 2**70),
    st.sampled_from(Phase),
    st.integers(0, 2**40),
    st.sampled_from(Use),
    st.integers(0, 1000),
    st.integers(0, 10),
)


def draw(key):
    seed, phase, iteration, use, task, stage = key
    generator = RandomKey(seed, phase, iteration).generator(use, task, stage)
    return tuple(generator.integers(2**63, size=2))


@given(keys, keys)
def test_streams_are_equal_exactly_when_their_names_are(one, other):
    assert (draw(one) == draw(other)) == (one == other)


def test_neighbouring_streams_differ():
    counters = itertools.product(range(3), Phase, range(3), Use, range(3), range(2))
    draws = [draw(c) for c in counters]
    assert len(set(draws)) == len(draws)


def test_no_global_generator_is_read_or_changed():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = draw((1, Phase.TRAINING, 2, Use.ACTION, 3, 0))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    assert draw((1, Phase.TRAINING, 2, Use.ACTION, 3, 0)) == first


def test_seeds_are_distinct_and_do_not_depend_on_how_many_are_asked_for():
    key = RandomKey(0)
    seeds = key.seeds(Use.RESET, 0, 0, 100)
    assert len(set(seeds)) == 100
    assert key.seeds(Use.RESET, 0, 0, 10) == seeds[:10]


def test_uniform_numbers_are_splitmix64():
    """The first outputs that are published for the seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    seeds = np.array([1234567], np.uint64)
    numbers = [uniform_numbers(seeds, np.array([t], np.uint64), 1)[0, 0] for t in range(3)]
    assert numbers == [(x >> 11) * 2.0**-53 for x in expected]
    at_once = uniform_numbers(seeds, np.zeros(1, np.uint64), 3)[0]
    np.testing.assert_array_equal(at_once, numbers)


def test_uniform_numbers_of_neighbouring_seeds_and_steps_are_independent():
    seeds = np.arange(2000, dtype=np.uint64)
    now, later = (uniform_numbers(seeds, np.full(2000, t, np.uint64), 2) for t in (0, 1))
    columns = np.concatenate([now[:-1], now[1:], later[:-1]], axis=1)
    assert columns.mean() == pytest.approx(0.5, abs=0.01)
    assert columns.var() == pytest.approx(1 / 12, rel=0.05)
    correlations = np.corrcoef(columns.T) - np.eye(6)
    assert np.abs(correlations).max() < 0.08
