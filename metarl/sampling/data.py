"""The batch types of sampling: rollouts, trials, and what a learner sees of them."""

import dataclasses
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trials:
    """Trials, one to a row: their steps without gaps between episodes, padded with zeros."""

    inputs: Tensor  # [trials, steps, input] float32, not yet normalised
    actions: Tensor  # [trials, steps, action] float32, or [trials, steps] int64
    log_probs: Tensor  # [trials, steps] float32, of the actions when they were drawn
    values: Tensor  # [trials, steps] float32, when the actions were drawn
    rewards: Tensor  # [trials, steps] float64
    valid: Tensor  # [trials, steps] bool; False is padding, at the end
    returns: Tensor  # [trials, episodes] float64, undiscounted
    success: Tensor | None  # [trials, episodes] bool, at any step; None: it is not told
    unstable: int  # episodes cut short because the simulation failed

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return int(self.valid.sum())


PER_STEP = ("inputs", "actions", "log_probs", "values", "rewards", "valid")
"""Fields of `Trials` that have a number for each step."""


@dataclass(frozen=True)
class Rollout:
    """Episodes of several tasks, one to a slot, padded with zeros to the longest."""

    observations: Tensor  # [tasks, episodes, time, observation] float32
    actions: Tensor  # [tasks, episodes, time, action] float32, or [tasks, episodes, time] int64
    log_probs: Tensor  # [tasks, episodes, time] float32, of the actions when they were drawn
    rewards: Tensor  # [tasks, episodes, time] float64
    valid: Tensor  # [tasks, episodes, time] bool; False is padding
    terminated: Tensor  # [tasks, episodes] bool; False: truncated, the episode could have gone on
    final_observations: Tensor  # [tasks, episodes, observation] float32, after the last step
    unstable: int = 0  # episodes cut short because the simulation failed
    success: Tensor | None = None  # [tasks, episodes] bool, at any step; None: it is not told

    def __getitem__(self, tasks: slice) -> "Rollout":
        """The episodes of some tasks; `unstable` counts those of all."""
        own = {name: getattr(self, name)[tasks] for name in _TENSORS}
        success = None if self.success is None else self.success[tasks]
        return dataclasses.replace(self, **own, success=success)

    def to(self, device: torch.device) -> "Rollout":
        """The rollout on a device."""
        own = {name: getattr(self, name).to(device) for name in _TENSORS}
        success = None if self.success is None else self.success.to(device)
        return dataclasses.replace(self, **own, success=success)

    @property
    def returns(self) -> Tensor:
        """Undiscounted sums of rewards: [tasks, episodes]."""
        return self.rewards.sum(-1)

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return int(self.valid.sum())

    def path(self) -> Tensor:
        """Observations of each task's first episode, NaN after its end: [tasks, time, ...]."""
        padding = ~self.valid[:, 0].unsqueeze(-1)
        return self.observations[:, 0].masked_fill(padding, torch.nan)


_TENSORS = [field.name for field in fields(Rollout) if field.name not in ("unstable", "success")]


@dataclass(frozen=True)
class Batch:
    """What the learner sees of a rollout.

    Rewards and values are discounted from the start of the episode and scaled as the advantages
    are: with λ = 1, γ^t A_t = Σ_{k ≥ t} rewards_k − values_t.
    """

    observations: Tensor  # [tasks, episodes, time, observation] float32
    actions: Tensor  # [tasks, episodes, time, action] float32, or [tasks, episodes, time] int64
    log_probs: Tensor  # [tasks, episodes, time] float32, of the actions when they were drawn
    advantages: Tensor  # [tasks, episodes, time] float32, 0 on padding
    rewards: Tensor  # [tasks, episodes, time] float32, 0 on padding
    values: Tensor  # [tasks, episodes, time] float32, 0 on padding: a baseline
    weight: Tensor  # [tasks, episodes, time] float32; 0 is padding, a probability if enumerated

    def __getitem__(self, tasks: slice) -> "Batch":
        """The batch of some tasks."""
        return Batch(*(getattr(self, f.name)[tasks] for f in fields(self)))

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.weight)

    @property
    def rows(self) -> int:
        """Steps of a task, padding included."""
        return self.weight[0].numel()

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""
        return self.weight.device

    def every(self, stride: int) -> "Batch":
        """Every `stride`-th time step."""
        return Batch(*(getattr(self, f.name)[:, :, ::stride].contiguous() for f in fields(self)))

    def sum(self, values: Tensor) -> Tensor:
        """Weighted sum over the steps of each task: [tasks, episodes, time] -> [tasks]."""
        return (values * self.weight).sum((1, 2))

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean over the steps of each task: [tasks, episodes, time] -> [tasks]."""
        return self.sum(values) / self.weight.sum((1, 2))
