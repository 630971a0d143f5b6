"""`Batch.every`: which time steps Fisher products see."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metarl import Config, Learner
from metarl.sampling.data import Batch


def numbered(tasks, episodes, steps):
    """A batch whose observations number its steps, each with weight 1."""
    number = torch.arange(tasks * episodes * steps).reshape(tasks, episodes, steps)
    zeros = torch.zeros(tasks, episodes, steps)
    return Batch(
        observations=number[..., None].float(),
        actions=number,
        log_probs=zeros,
        advantages=zeros,
        rewards=zeros,
        values=zeros,
        weight=zeros + 1,
    )


def times_seen(batch, steps):
    """How often each step of each task and episode is among those of the batch."""
    seen = batch.actions[batch.weight > 0]
    tasks, episodes, _ = batch.weight.shape
    return torch.bincount(seen, minlength=tasks * episodes * steps).reshape(tasks, episodes, steps)


SIZES = st.integers(1, 7), st.integers(1, 23), st.integers(1, 12)


@given(*SIZES)
def test_over_as_many_tasks_as_a_stride_each_step_is_seen_once(episodes, steps, stride):
    every = numbered(stride, episodes, steps).every(stride)
    assert (times_seen(every, steps).sum(0) == 1).all()
    assert torch.equal(every.observations[..., 0].long(), every.actions)


@given(*SIZES)
def test_over_as_many_episodes_as_a_stride_each_step_is_seen_once(tasks, steps, stride):
    """No phase of a gait is missed, whatever its period is."""
    every = numbered(tasks, stride, steps).every(stride)
    assert (times_seen(every, steps).sum(1) == 1).all()


@given(*SIZES, st.integers(0, 6))
def test_a_part_of_the_tasks_sees_the_steps_that_it_sees_among_all(episodes, steps, stride, first):
    batch = numbered(7, episodes, steps)
    whole, part = batch.every(stride)[first:], batch[first:].every(stride, first)
    for name in ("actions", "observations", "weight"):
        assert torch.equal(getattr(whole, name), getattr(part, name))


def test_a_stride_of_one_is_the_batch():
    batch = numbered(2, 3, 5)
    assert torch.equal(batch.every(1).actions, batch.actions)


def test_a_task_of_which_no_step_is_seen_has_mean_0():
    batch = numbered(2, 1, 10)
    batch.weight[:, :, 1:] = 0  # episodes of one step; the second task's first one seen is its 2nd
    every = batch.every(5)
    assert every.mean(torch.ones_like(every.weight)).tolist() == [1, 0]


@pytest.mark.parametrize("estimator", ["naive", "dice", "loaded_dice", "taypo2"])
def test_fisher_products_of_some_steps_claim_the_kl_that_is_measured(estimator):
    config = Config(
        "envs:HopperParams-v0",  # episodes end early
        iterations=1,
        meta_batch_size=4,
        episodes=20,
        horizon=30,
        hidden_sizes=(16,),
        estimator=estimator,
        outer="natural",
        max_kl=1e-4,
        eval_every=0,
        device="cpu",
    )
    (metrics,) = Learner(config).learn(1)
    assert metrics["outer/kl_claimed"] == config.max_kl
    assert metrics["outer/kl"] == pytest.approx(config.max_kl, rel=0.4)


def test_means_of_what_depends_on_the_phase_of_a_gait_are_right():
    """With a period of the stride, the same first step for all would see one phase only."""
    batch = numbered(10, 20, 100)
    phase = torch.cos(2 * torch.pi * (batch.actions % 100) / 10)
    every = batch.every(10)
    assert batch.mean(phase) == pytest.approx(0, abs=1e-6)
    seen = torch.cos(2 * torch.pi * (every.actions % 100) / 10)
    assert every.mean(seen) == pytest.approx(0, abs=1e-6)
