"""Discounted returns and generalised advantages of rollouts."""

import torch
from torch import Tensor

from metarl.sampling.baseline import Baseline, fit_values
from metarl.sampling.data import Batch, Rollout
from metarl.support.errors import UsageError
from metarl.support.finite import expect_finite
from metarl.support.parallel import Shard, Workers

SMALLEST_STD = 1e-8


def make_batch(
    rollout: Rollout,
    discount: float,
    gae_lambda: float,
    workers: Workers,
    baseline: Baseline = fit_values,
) -> Batch:
    """The rollout with its advantages, normalised to mean 0 and deviation 1 for each task."""
    return make_scaled_batch(rollout, discount, gae_lambda, workers, baseline)[0]


def make_scaled_batch(
    rollout: Rollout,
    discount: float,
    gae_lambda: float,
    workers: Workers,
    baseline: Baseline,
    scale: float | None = None,
) -> tuple[Batch, Tensor]:
    """The rollout with its advantages, and their deviations before they were scaled: [tasks].

    Args:
        rollout: of some tasks.
        discount, gae_lambda: γ and λ.
        workers: whose threads share the tasks.
        baseline: gives state values.
        scale: what the advantages, rewards and values of all tasks are divided by; if it is not
            given, those of each task are divided by the deviation of its advantages.

    Raises:
        NonFiniteError: an advantage, or what it is computed from, is infinite or NaN.

    """
    tasks, episodes, time = rollout.valid.shape
    shard = rollout.shard or Shard.whole(tasks, episodes * time, rollout.valid.device)

    def of_tasks(tasks: slice) -> tuple[Tensor, ...]:
        part = rollout[tasks]
        discounted = discounted_sums(part.rewards, discount)
        values, final_value = _expect_values(baseline(part, discounted, discount), discounted)
        advantages = generalised_advantages(
            part.rewards, values, final_value, part.valid, discount, gae_lambda
        )
        mean, std = moments(advantages, part.valid)
        is_last = last_steps(part.valid)
        rewards = part.rewards + discount * final_value.unsqueeze(-1) * is_last
        t = torch.arange(rewards.shape[-1], device=rewards.device)
        powers = discount ** t.to(rewards) * part.valid
        # The mean that advantages lose is a constant baseline.
        scaled = (advantages - mean) * part.valid, rewards * powers, (values + mean) * powers
        divisor = std if scale is None else scale
        return (*((x / divisor).float() for x in scaled), std.flatten())

    parts = workers.map(of_tasks, shard.slices, shard=shard)
    advantages, rewards, values, deviations = map(torch.cat, zip(*parts, strict=True))
    given = {"rewards": rewards, "the baseline": values, "their deviation": deviations}
    expect_finite("an advantage", {"its value": advantages, **given}, by_task=True)
    batch = Batch(
        rollout.observations,
        rollout.actions,
        rollout.log_probs,
        advantages,
        rewards,
        values,
        rollout.valid.float(),
    )
    return batch, deviations


def _expect_values(given: object, discounted: Tensor) -> tuple[Tensor, Tensor]:
    """Checks what a baseline returns, which may be a user's own.

    Raises:
        UsageError: it is something else than values of the steps and of the states after them.

    """
    expected = discounted.shape, discounted.shape[:2]
    pair = given if isinstance(given, tuple) else (given,)
    shapes = tuple(x.shape if isinstance(x, Tensor) else None for x in pair)
    if shapes != expected:
        described = " and ".join(
            type(values).__name__ if shape is None else str(tuple(shape))
            for values, shape in zip(pair, shapes, strict=True)
        )
        raise UsageError(
            f"the baseline returns {described}, not two tensors: the values of the steps, "
            f"{tuple(expected[0])}, and those of the states after them, {tuple(expected[1])}"
        )
    values, final_value = pair
    return values, final_value


def discounted_sums(rewards: Tensor, discount: float) -> Tensor:
    """G_t = Σ_{k ≥ t} γ^{k−t} r_k: [..., time]."""
    t = torch.arange(rewards.shape[-1], device=rewards.device)
    lag = (t.unsqueeze(-1) - t).clamp(min=0)  # [k, t]
    # One product with the triangle of γ^{k−t} is many times faster than a loop over time.
    # `full` fills on the device; `tensor` would send the number there, and wait.
    base = torch.full((), discount, dtype=rewards.dtype, device=t.device)
    return rewards @ torch.tril(base**lag)


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    final_value: Tensor,
    valid: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16).

        δ_t = r_t + γ V(s_{t+1}) − V(s_t),    A_t = δ_t + γλ A_{t+1}

    Args:
        rewards, values, valid: [tasks, episodes, time]; rewards and values are 0 on padding.
        final_value: V after the last step, 0 where the episode terminated: [tasks, episodes].

    Returns:
        [tasks, episodes, time], 0 on padding.

    """
    is_last = last_steps(valid)
    next_values = values.roll(-1, -1).masked_fill(is_last, 0) + final_value.unsqueeze(-1) * is_last
    deltas = (rewards + discount * next_values - values) * valid
    return discounted_sums(deltas, discount * gae_lambda)


def last_steps(valid: Tensor) -> Tensor:
    """Where episodes have their last step: [tasks, episodes, time] bool."""
    is_last = valid.clone()
    is_last[..., :-1] &= ~valid[..., 1:]
    return is_last


def moments(advantages: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the valid steps of each task: [tasks, 1, 1]."""
    number = valid.sum((1, 2), keepdim=True)
    mean = (advantages * valid).sum((1, 2), keepdim=True) / number
    centred = (advantages - mean) * valid
    return mean, (centred.square().sum((1, 2), keepdim=True) / number).sqrt() + SMALLEST_STD
