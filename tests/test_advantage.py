import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl import Config, Learner
from metarl.sampling.advantage import (
    discounted_sums,
    generalised_advantages,
    make_batch,
    make_scaled_batch,
    moments,
)
from metarl.sampling.baseline import fit_network_values, fit_values, projected
from metarl.sampling.data import Rollout, concatenated


def random_rollout(seed: int, time: int = 6) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 5, time)
    lengths = torch.randint(1, time + 1, (2, 5, 1), generator=generator)
    valid = torch.arange(time) < lengths
    observations = torch.randn(*shape, 2, generator=generator) * valid.unsqueeze(-1)
    rewards = torch.randn(*shape, generator=generator, dtype=torch.float64) * valid
    terminated = torch.rand(2, 5, generator=generator) < 0.5
    final = torch.randn(2, 5, 2, generator=generator)
    actions, zeros = torch.zeros(*shape, 1), torch.zeros(shape)
    return Rollout(observations, actions, zeros, rewards, valid, terminated, final)


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_advantages_are_those_of_a_plain_loop(seed, discount, gae_lambda):
    rollout = random_rollout(seed)
    values = torch.randn(2, 5, 6, dtype=torch.float64) * rollout.valid
    final = torch.randn(2, 5, dtype=torch.float64)
    ours = generalised_advantages(
        rollout.rewards, values, final, rollout.valid, discount, gae_lambda
    )
    expected = torch.zeros_like(ours)
    for i in range(2):
        for j in range(5):
            length = int(rollout.valid[i, j].sum())
            v = [*values[i, j, :length].tolist(), final[i, j].item()]
            for t in range(length):
                for k in range(t, length):
                    delta = rollout.rewards[i, j, k].item() + discount * v[k + 1] - v[k]
                    expected[i, j, t] += (discount * gae_lambda) ** (k - t) * delta
    torch.testing.assert_close(ours, expected)


def test_discounted_sums_by_hand():
    sums = discounted_sums(torch.tensor([1.0, 2.0, 4.0]), 0.5)
    assert sums.tolist() == [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4]


def constant_reward_rollout(terminated: bool) -> Rollout:
    generator = torch.Generator().manual_seed(0)
    shape = (1, 20, 10)
    return Rollout(
        torch.randn(*shape, 1, generator=generator),
        torch.zeros(*shape, 1),
        torch.zeros(shape),
        torch.ones(*shape, dtype=torch.float64),
        torch.ones(shape, dtype=torch.bool),
        torch.full((1, 20), terminated),
        torch.randn(1, 20, 1, generator=generator),
    )


def test_a_batch_made_on_a_device_is_that_of_the_cpu(workers, device):
    rollout = random_rollout(0)
    there = rollout.to(torch.device(device))
    ours, theirs = (make_batch(r, 0.9, 0.8, workers) for r in (rollout, there))
    assert theirs.device.type == device
    for field in dataclasses.fields(ours):
        value, other = (getattr(batch, field.name).cpu() for batch in (ours, theirs))
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-5)


def test_a_truncated_episode_is_worth_what_it_would_have_earned():
    # A reward of 1 for ever is worth 1 / (1 - γ) in every state, however short the episodes.
    rollout = constant_reward_rollout(terminated=False)
    sums = discounted_sums(rollout.rewards, 0.9)
    values, final = fit_values(rollout, sums, 0.9)
    torch.testing.assert_close(values, torch.full_like(values, 10), rtol=1e-4, atol=0)
    torch.testing.assert_close(final, torch.full_like(final, 10), rtol=1e-4, atol=0)
    advantages = generalised_advantages(rollout.rewards, values, final, rollout.valid, 0.9, 1.0)
    assert advantages.abs().max() < 1e-3


def test_a_terminated_episode_is_worth_nothing_more():
    rollout = constant_reward_rollout(terminated=True)
    sums = discounted_sums(rollout.rewards, 0.9)
    values, final = fit_values(rollout, sums, 0.9)
    assert torch.equal(final, torch.zeros_like(final))
    # Without truncation the fit is a plain least-squares regression of the returns.
    s = rollout.observations.flatten().double().numpy()
    phi = np.stack([s, s**2, np.ones_like(s)], -1)
    solution = np.linalg.lstsq(phi, sums.flatten().numpy(), rcond=None)[0]
    torch.testing.assert_close(
        values.flatten(), torch.from_numpy(phi @ solution), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_point_that_drifts_away_from_its_goal_is_worth_less_and_not_absurdly_so(seed):
    """The place tells the time, as when an unstable policy leaves. Least-squares temporal
    differences give values of −6,000 to −26,000 here, as the noise will have it."""
    generator = torch.Generator().manual_seed(seed)
    steps = 0.5 + 0.2 * torch.rand(1, 20, 31, generator=generator)
    x = steps.cumsum(-1).unsqueeze(-1)
    rewards = -x[:, :, 1:, 0].double()
    zeros, valid = torch.zeros(1, 20, 30), torch.ones(1, 20, 30, dtype=torch.bool)
    rollout = Rollout(
        x[:, :, :-1], zeros.unsqueeze(-1), zeros, rewards, valid,
        torch.zeros(1, 20, dtype=torch.bool), x[:, :, -1],
    )  # fmt: skip
    values, final = fit_values(rollout, discounted_sums(rewards, 0.99), 0.99)
    assert (values[..., -1] < values[..., 0]).all()
    assert (final < values[..., 0]).all()
    # The worst reward that was seen, for ever.
    assert final.min() > 1.1 * rewards.min() / (1 - 0.99)


def test_without_discount_a_truncation_is_an_end():
    rollout = constant_reward_rollout(terminated=False)
    ended = constant_reward_rollout(terminated=True)
    sums = discounted_sums(rollout.rewards, 1.0)
    for ours, expected in zip(
        fit_values(rollout, sums, 1.0), fit_values(ended, sums, 1.0), strict=True
    ):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("constant", [0.0, 1.0, 1e3, 1e8])
def test_an_observation_that_never_changes_does_no_harm(constant):
    rollout = constant_reward_rollout(terminated=False)
    sums = discounted_sums(rollout.rewards, 0.9)
    expected, _ = fit_values(rollout, sums, 0.9)
    filled = torch.full_like(rollout.observations, constant)
    wider = dataclasses.replace(
        rollout,
        observations=torch.cat([rollout.observations, filled], -1),
        final_observations=torch.cat([rollout.final_observations, filled[:, :, 0]], -1),
    )
    values, _ = fit_values(wider, sums, 0.9)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=0)


def test_padding_does_not_change_the_batch(workers):
    short, long = random_rollout(3), random_rollout(3)

    def padded(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.zeros_like(x[:, :, :2])], 2)

    long = Rollout(
        padded(short.observations), padded(short.actions), padded(short.log_probs),
        padded(short.rewards), padded(short.valid), short.terminated, short.final_observations,
    )  # fmt: skip
    one, other = (make_batch(rollout, 0.99, 0.95, workers) for rollout in (short, long))
    torch.testing.assert_close(one.advantages, other.advantages[:, :, :-2])
    assert other.advantages[:, :, -2:].abs().max() == 0


def test_tasks_do_not_share_a_baseline(workers):
    rollout = random_rollout(4)
    louder = Rollout(
        rollout.observations, rollout.actions, rollout.log_probs,
        torch.cat([rollout.rewards[:1], 100 + rollout.rewards[1:]]) * rollout.valid,
        rollout.valid, rollout.terminated, rollout.final_observations,
    )  # fmt: skip
    one, other = (make_batch(r, 0.99, 1.0, workers) for r in (rollout, louder))
    assert torch.equal(one.advantages[0], other.advantages[0])


def test_advantages_are_normalised_per_task(workers):
    rollout = random_rollout(5)
    advantages = make_batch(rollout, 0.99, 0.95, workers).advantages
    for i in range(2):
        values = advantages[i][rollout.valid[i]]
        assert values.mean().item() == pytest.approx(0, abs=1e-6)
        assert values.std(correction=0).item() == pytest.approx(1, rel=1e-6)
    assert advantages[~rollout.valid].abs().max() == 0


def test_with_a_common_scale_tasks_with_larger_rewards_have_larger_advantages(workers):
    """The second task is the first with ten times its rewards."""
    rollout = random_rollout(0)[:1]
    twice = concatenated([rollout, dataclasses.replace(rollout, rewards=10 * rollout.rewards)])
    own = make_batch(twice, 0.9, 0.8, workers)
    batch, deviations = make_scaled_batch(twice, 0.9, 0.8, workers, fit_values, scale=4.0)
    torch.testing.assert_close(own.advantages[1], own.advantages[0])
    torch.testing.assert_close(deviations[1], 10 * deviations[0])
    for name in ("advantages", "rewards", "values"):
        expected = getattr(own, name) * deviations.float()[:, None, None] / 4
        torch.testing.assert_close(getattr(batch, name), expected)


def test_rewards_are_divided_by_the_deviation_of_all_advantages_of_earlier_iterations():
    config = Config("envs:Navigation2D-v0", meta_batch_size=3, episodes=2, horizon=5, device="cpu")
    learner = Learner(dataclasses.replace(config, normalise_rewards=True))
    rollouts, batches = [], []
    sample, make = learner.sample, learner._make_scaled_batch
    learner.sample = lambda *a, **k: rollouts.append(sample(*a, **k)) or rollouts[-1]
    learner._make_scaled_batch = lambda rollout: batches.append(make(rollout)) or batches[-1]
    learner.iterate()
    advantages = [
        batch.advantages[i][rollout.valid[i]] * deviations[i]
        for rollout, (batch, deviations) in zip(rollouts, batches, strict=True)
        for i in range(3)
    ]
    scale = torch.cat(advantages).square().mean().sqrt()
    torch.testing.assert_close(
        learner.advantages.moments[1].item(), scale.item(), rtol=1e-5, atol=0
    )
    learner.iterate()
    batch, deviations = batches[2]  # before adaptation, in the second iteration
    _, spread = moments(batch.advantages, rollouts[2].valid)
    torch.testing.assert_close(spread.flatten().double(), deviations / scale, rtol=1e-4, atol=0)


def test_moments_are_those_of_the_valid_steps():
    rollout = random_rollout(6)
    mean, std = moments(rollout.rewards, rollout.valid)
    for i in range(2):
        values = rollout.rewards[i][rollout.valid[i]]
        assert mean[i].item() == pytest.approx(values.mean().item())
        assert std[i].item() == pytest.approx(values.std(correction=0).item())


def test_rewards_and_values_of_a_batch_are_its_advantages_taken_apart(workers):
    """γ^t A_t = Σ_{k ≥ t} rewards_k − values_t with λ = 1, whatever ends the episode."""
    rollout = random_rollout(7)
    batch = make_batch(rollout, 0.9, 1.0, workers)
    powers = 0.9 ** torch.arange(6)
    apart = (discounted_sums(batch.rewards, 1.0) - batch.values) * rollout.valid
    torch.testing.assert_close(apart, powers * batch.advantages, rtol=1e-4, atol=1e-5)


def test_a_network_explains_what_a_parabola_cannot(device):
    """Rewards |s| + 3 [s > 1]: neither linear nor square."""
    rollout = constant_reward_rollout(terminated=True)
    s = rollout.observations[..., 0].double()
    rewards = s.abs() + 3.0 * (s > 1)
    valid = torch.zeros_like(rollout.valid)
    valid[:, :, 0] = True  # bandit: one step
    rollout = dataclasses.replace(rollout, rewards=rewards * valid, valid=valid)
    rollout, valid = rollout.to(torch.device(device)), valid.to(device)

    def error(fit):
        values, final = fit(rollout, rollout.rewards, 0.9)
        assert values[~valid].abs().max() == 0
        assert final.abs().max() == 0
        return (values - rollout.rewards)[valid].square().mean().item()

    assert error(fit_network_values) < 0.7 * error(fit_values)


def test_a_network_adds_nothing_where_the_linear_fit_is_exact():
    rollout = constant_reward_rollout(terminated=False)
    sums = discounted_sums(rollout.rewards, 0.9)
    values, final = fit_network_values(rollout, sums, 0.9)
    torch.testing.assert_close(values, torch.full_like(values, 10), rtol=1e-2, atol=0)
    torch.testing.assert_close(final, torch.full_like(final, 10), rtol=1e-2, atol=0)


def test_large_observations_keep_their_distances_and_small_ones_are_as_they_were():
    small = torch.randn(5, 256, generator=torch.Generator().manual_seed(0))
    assert projected(small) is small
    large = torch.randint(0, 256, (40, 3000), dtype=torch.uint8)
    seen = projected(large)
    assert seen.shape == (40, 64)
    # On average over the matrix, squared distances shrink by 64 / 3000.
    ratio = torch.pdist(seen).square() / torch.pdist(large.float()).square() * 3000 / 64
    assert 0.8 < ratio.mean() < 1.2
    assert ratio.std() < 0.3  # √(2 / 64) is .18
