"""Noise for declared families: its distribution, and the same bits from NumPy and torch."""

import statistics

import numpy as np
import pytest
import torch

from metarl.tasks.family import make_family
from metarl.tasks.noise import Noise, Purpose, normal_quantile

STREAMS = np.arange(4000)


def draws(streams=STREAMS, purpose=Purpose.RESET):
    """Of every kind, twice: [streams, n]."""
    noise = Noise(streams, purpose)
    low = noise.zeros(3) - 2.0
    return [
        *(noise.uniform(-1.0, 3.0, 4), noise.normal(5), noise.normal(2)),
        *(noise.uniform(low, 1.0, 3), noise.uniform_at(streams, 3)),
    ]


def distance_to(cdf, values):
    """Kolmogorov and Smirnov's: the largest distance of the distribution functions, × √n."""
    x = np.sort(np.ravel(values))
    steps = np.arange(len(x) + 1) / len(x)
    expected = np.array([cdf(value) for value in x])
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    return np.sqrt(len(x)) * distance


def test_numpy_and_torch_have_the_same_bits(device):
    for streams in (STREAMS, np.array([0, -1, 2**63 - 1, -(2**63)])):
        there = draws(torch.from_numpy(streams).to(device))
        for ours, theirs in zip(draws(streams), there, strict=True):
            assert theirs.dtype == torch.float64
            assert theirs.device.type == device
            np.testing.assert_array_equal(ours, theirs.cpu().numpy())


def test_an_episodes_numbers_are_its_own_streams_alone():
    for all_of_them, one in zip(draws(), draws(STREAMS[17:18]), strict=True):
        np.testing.assert_array_equal(all_of_them[17:18], one)
    for flat, square in zip(draws(STREAMS[:6]), draws(STREAMS[:6].reshape(2, 3)), strict=True):
        np.testing.assert_array_equal(flat.reshape(square.shape), square)
    for several, single in zip(draws(STREAMS[:1]), draws(STREAMS[0, ...]), strict=True):
        np.testing.assert_array_equal(several[0], single)


def test_draws_and_purposes_share_no_numbers():
    noise, steps = Noise(STREAMS, Purpose.RESET), Noise(STREAMS, Purpose.TRANSITION)
    drawn = [noise.uniform(0.0, 1.0, 3), noise.uniform(0.0, 1.0, 2)]
    drawn += [steps.uniform_at(np.array(t), 2) for t in range(4)]
    values = np.concatenate([part.ravel() for part in drawn])
    assert len(np.unique(values)) == len(values) == 13 * len(STREAMS)


def test_uniform_numbers_are_uniform():
    x = Noise(STREAMS, Purpose.RESET).uniform(-1.0, 3.0, 5)
    assert x.min() >= -1
    assert x.max() < 3
    assert x.mean() == pytest.approx(1, abs=0.03)
    assert x.var() == pytest.approx(16 / 12, rel=0.03)
    assert distance_to(lambda v: (v + 1) / 4, x) < 1.63  # 1 % of samples are farther


def test_normal_numbers_are_normal():
    x = Noise(STREAMS, Purpose.RESET).normal(5)
    assert x.mean() == pytest.approx(0, abs=0.03)
    assert x.var() == pytest.approx(1, rel=0.03)
    assert np.mean(x**4) == pytest.approx(3, rel=0.08)
    assert distance_to(statistics.NormalDist().cdf, x) < 1.63


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_consecutive_streams_and_steps_are_independent(kind):
    noise = Noise(STREAMS, Purpose.RESET)
    now, later = (
        noise.normal(3) if kind == "normal" else noise.uniform(0.0, 1.0, 3) for _ in range(2)
    )
    steps = Noise(STREAMS, Purpose.TRANSITION)
    first, second = (steps.uniform_at(np.array(t), 2) for t in range(2))
    columns = np.concatenate([now[:-1], now[1:], later[:-1], first[:-1], second[1:]], axis=1)
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 4.5 / np.sqrt(len(columns))


def test_the_normal_quantile_is_pythons():
    exact = statistics.NormalDist().inv_cdf
    tails = 2.0 ** -np.arange(2, 54)
    p = np.concatenate([tails, 1 - tails, np.linspace(0.001, 0.999, 500)])
    expected = [exact(value) for value in p]
    np.testing.assert_allclose(normal_quantile(p), expected, rtol=4e-15, atol=1e-16)


def test_no_zero_and_no_one_is_ever_asked_for():
    """The least and the largest words have finite normal numbers."""

    class Words(Noise):
        def _words(self, n):
            return np.array([[0, 1, 2**53 - 1]])

    x = Words(np.zeros(1, np.int64), Purpose.RESET).normal(3)[0]
    assert x[0] == x[1] == -x[2]
    assert x[2] == pytest.approx(8.2095, abs=1e-3)


def test_first_states_are_distributed_as_gymnasiums():
    """Of HalfCheetah-v5: uniform over ±.1 in positions, normal with σ = .1 in velocities."""
    declaration = make_family("envs:HalfCheetahDir-v0").prototype.unwrapped.family
    qpos, qvel = declaration.initial(Noise(STREAMS, Purpose.RESET), *np.zeros((2, 4000, 9)))
    assert distance_to(lambda v: (v + 0.1) / 0.2, qpos) < 1.63
    assert distance_to(statistics.NormalDist(0, 0.1).cdf, qvel) < 1.63
    reacher = make_family("envs:ReacherGoal-v0").prototype.unwrapped.family
    target = np.ones((4000, 4))
    qpos, qvel = reacher.initial(Noise(STREAMS, Purpose.RESET), target, 0 * target)
    assert distance_to(lambda v: (v - 0.9) / 0.2, qpos[:, :2]) < 1.63
    assert distance_to(lambda v: (v + 0.005) / 0.01, qvel[:, :2]) < 1.63
    assert (qpos[:, 2:] == 1).all()
    assert (qvel[:, 2:] == 0).all()
