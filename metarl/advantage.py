"""Returns and advantages, and the batch that a learner sees."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from metarl.baseline import fit_values
from metarl.parallel import Workers, chunk_slices
from metarl.rollout import Rollout

SMALLEST_STD = 1e-8


@dataclass(frozen=True)
class Batch:
    """What the learner sees of a rollout."""

    observations: Tensor  # [tasks, episodes, time, observation] float32
    actions: Tensor  # [tasks, episodes, time, action] float32, or [tasks, episodes, time] int64
    log_probs: Tensor  # [tasks, episodes, time] float32, of the actions when they were drawn
    advantages: Tensor  # [tasks, episodes, time] float32, 0 on padding
    valid: Tensor  # [tasks, episodes, time] bool; False is padding

    def __getitem__(self, tasks: slice) -> "Batch":
        """The batch of some tasks."""
        return Batch(*(getattr(self, f.name)[tasks] for f in fields(self)))

    def every(self, stride: int) -> "Batch":
        """Every `stride`-th time step."""
        return Batch(*(getattr(self, f.name)[:, :, ::stride].contiguous() for f in fields(self)))

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the valid steps of each task: [tasks, episodes, time] -> [tasks]."""
        return (values * self.valid).sum((1, 2)) / self.valid.sum((1, 2))


def make_batch(rollout: Rollout, discount: float, gae_lambda: float, workers: Workers) -> Batch:
    """The rollout with its advantages, normalised to mean 0 and deviation 1 for each task."""

    def of_tasks(tasks: slice) -> Tensor:
        part = rollout[tasks]
        discounted = discounted_sums(part.rewards, discount)
        values, final_value = fit_values(part, discounted, discount)
        advantages = generalised_advantages(
            part.rewards, values, final_value, part.valid, discount, gae_lambda
        )
        return normalise(advantages, part.valid).float()

    tasks, episodes, time = rollout.valid.shape
    slices = chunk_slices(tasks, episodes * time, rollout.valid.device)
    return Batch(
        rollout.observations,
        rollout.actions,
        rollout.log_probs,
        torch.cat(workers.map(of_tasks, slices)),
        rollout.valid,
    )


def discounted_sums(rewards: Tensor, discount: float) -> Tensor:
    """G_t = Σ_{k ≥ t} γ^{k−t} r_k: [..., time]."""
    t = torch.arange(rewards.shape[-1], device=rewards.device)
    lag = (t.unsqueeze(-1) - t).clamp(min=0)  # [k, t]
    # One product with the triangle of γ^{k−t} is many times faster than a loop over time.
    return rewards @ torch.tril(torch.tensor(discount, dtype=rewards.dtype, device=t.device) ** lag)


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
    is_last = valid.clone()
    is_last[..., :-1] &= ~valid[..., 1:]
    next_values = values.roll(-1, -1).masked_fill(is_last, 0) + final_value.unsqueeze(-1) * is_last
    deltas = (rewards + discount * next_values - values) * valid
    return discounted_sums(deltas, discount * gae_lambda)


def normalise(advantages: Tensor, valid: Tensor) -> Tensor:
    """(A − mean) / deviation over the valid steps of each task: [tasks, episodes, time]."""
    number = valid.sum((1, 2), keepdim=True)
    mean = (advantages * valid).sum((1, 2), keepdim=True) / number
    centred = (advantages - mean) * valid
    std = (centred.square().sum((1, 2), keepdim=True) / number).sqrt()
    return centred / (std + SMALLEST_STD)
