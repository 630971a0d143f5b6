import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metarl.randomness import Phase, RandomKey, Use

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
