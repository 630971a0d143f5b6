import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metarl.support.randomness import GAMMA, Phase, RandomKey, Use, mixed, random_words

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


def test_seeds_of_environments_fit_numpys_legacy_generator_and_no_others_are_cut():
    seeds = RandomKey(0).seeds(Use.RESET, 0, 0, 1000)
    assert 2**31 < max(seeds) < 2**32
    np.random.RandomState(max(seeds))
    assert max(RandomKey(0).seeds(Use.INTERVAL, 0, 0, 1000)) > 2**63


PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423]
"""The first outputs of SplitMix64 for the seed 1234567."""


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_random_words_are_splitmix64(kind):
    stream = kind([1234567])
    expected = [x >> 11 for x in PUBLISHED]
    assert random_words(stream, 0, 3)[0].tolist() == expected
    one_by_one = [random_words(stream, kind([t]), 1)[0, 0].tolist() for t in range(3)]
    assert one_by_one == expected
    assert [int(x) % 2**64 for x in mixed(stream + kind([1, 2, 3]) * GAMMA)] == PUBLISHED
