"""The batch types of sampling: rollouts, trials, and what a learner sees of them."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from metarl.support.parallel import Shard

T = TypeVar("T", "Trials", "Outcomes", "Rollout")


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
    success: Tensor | None  # [trials, episodes] bool, at any step; None if not reported
    unstable: int  # episodes cut short because the simulation failed

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return int(self.valid.sum())

    @classmethod
    def joined(cls, parts: Sequence["Trials"]) -> "Trials":
        """Trials of consecutive tasks as one, padded to the longest."""
        longest = max(part.valid.shape[1] for part in parts)

        def padded(part: Trials) -> Trials:
            longer: dict[str, Any] = {
                name: lengthened(getattr(part, name), 1, longest) for name in PER_STEP
            }
            return replace(part, **longer)

        return concatenated([padded(part) for part in parts])

    def without(self, trials: Collection[int]) -> "Trials":
        """The other trials; `unstable` is that of all."""
        if not trials:
            return self
        kept = [i for i in range(len(self.valid)) if i not in trials]
        return _rows(self, kept)

    def to(self, device: torch.device) -> "Trials":
        """The trials with what the network reads on a device."""
        read = ("inputs", "actions", "log_probs", "values")
        return replace(self, **{name: getattr(self, name).to(device) for name in read})


PER_STEP = ("inputs", "actions", "log_probs", "values", "rewards", "valid")
"""Fields of `Trials` that have a number for each step."""


@dataclass(frozen=True)
class Outcomes:
    """How the episodes of some tasks went: what processes tell one another of their rollouts."""

    returns: Tensor  # [tasks, episodes] float64, undiscounted
    log_probs: Tensor  # [tasks, episodes] float32, sums over the steps
    steps: Tensor  # [tasks, episodes] int64, that were taken
    unstable: int
    """Episodes cut short because the simulation failed."""
    success: Tensor | None  # [tasks, episodes] bool, at any step; None if not reported
    info: Tensor | None = None  # [tasks, episodes, n] float64, of --info-metrics; NaN if unreported

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return int(self.steps.sum())

    def without(self, tasks: Collection[int]) -> "Outcomes":
        """The outcomes of the other tasks; `unstable` is that of all."""
        if not tasks:
            return self
        kept = [i for i in range(len(self.returns)) if i not in tasks]
        return _rows(self, kept)


@dataclass(frozen=True, repr=False)
class Rollout:
    """Episodes of several tasks, one to a slot, padded with zeros to the longest.

    Raises:
        ValueError: a field does not have its shape.

    """

    observations: Tensor  # [tasks, episodes, time, input] float32, as the policy saw them
    actions: Tensor  # [tasks, episodes, time, action] float32, or [tasks, episodes, time] int64
    log_probs: Tensor  # [tasks, episodes, time] float32, of the actions when they were drawn
    rewards: Tensor  # [tasks, episodes, time] float64
    valid: Tensor  # [tasks, episodes, time] bool; False is padding
    terminated: Tensor  # [tasks, episodes] bool; False: truncated, the episode could have gone on
    final_observations: Tensor  # [tasks, episodes, input] float32, after the last step
    unstable: int = 0  # episodes cut short because the simulation failed
    success: Tensor | None = None  # [tasks, episodes] bool, at any step; None if not reported
    values: Tensor | None = None  # [tasks, episodes, time] float32, of actors that estimate them
    info: Tensor | None = None  # [tasks, episodes, n] float64, of --info-metrics; NaN if unreported
    shard: Shard | None = None  # which of all processes' tasks these are; None: all of them

    def __post_init__(self) -> None:
        """Checks the shapes."""
        tasks, episodes, time = self.valid.shape
        expect_shapes(
            self,
            observations=(tasks, episodes, time, self.observations.shape[-1]),
            actions=(tasks, episodes, time, *self.actions.shape[3:]),
            log_probs=(tasks, episodes, time),
            rewards=(tasks, episodes, time),
            terminated=(tasks, episodes),
            final_observations=(tasks, episodes, self.observations.shape[-1]),
            success=(tasks, episodes),
            values=(tasks, episodes, time),
            info=(tasks, episodes, *(() if self.info is None else self.info.shape[2:])),
        )

    def __repr__(self) -> str:
        tasks, episodes, time = self.valid.shape
        mean = f"mean return {float(self.returns.mean()):.4g}"
        return f"Rollout({tasks} × {episodes} episodes of up to {time} steps; {mean})"

    def __getitem__(self, tasks: slice) -> "Rollout":
        """The episodes of some tasks; `unstable` counts those of all."""
        return replace(self._map(lambda values: values[tasks]), shard=None)

    def to(self, device: torch.device) -> "Rollout":
        """The rollout on a device."""
        return self._map(lambda values: values.to(device))

    @property
    def returns(self) -> Tensor:
        """Undiscounted sums of rewards: [tasks, episodes]."""
        return self.rewards.sum(-1)

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return int(self.valid.sum())

    @property
    def outcomes(self) -> Outcomes:
        """How the episodes went, on the CPU."""
        sums, steps = self.log_probs.sum(-1).cpu(), self.valid.sum(-1).cpu()
        success, info = (x if x is None else x.cpu() for x in (self.success, self.info))
        return Outcomes(self.returns.cpu(), sums, steps, self.unstable, success, info)

    def blank(self, tasks: Collection[int]) -> "Rollout":
        """The rollout with zeros where these tasks were: their steps count, and teach nothing."""
        device = self.valid.device
        numbers = torch.arange(len(self.valid), device=device)
        dropped = torch.isin(numbers, torch.tensor(list(tasks), device=device))

        def zeros(values: Tensor) -> Tensor:
            return values.masked_fill(dropped.reshape(-1, *(1,) * (values.dim() - 1)), 0)

        return replace(self._map(zeros), valid=self.valid) if tasks else self

    def padded(self, steps: int) -> "Rollout":
        """The rollout with padding up to so many steps."""
        per_step = ("observations", "actions", "log_probs", "rewards", "valid", "values")
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {n: lengthened(values[n], 2, steps) for n in per_step if values[n] is not None}
        return Rollout(**values | changed)

    def path(self) -> Tensor:
        """Observations of each task's first episode, NaN after its end: [tasks, time, ...]."""
        padding = ~self.valid[:, 0].unsqueeze(-1)
        return self.observations[:, 0].masked_fill(padding, torch.nan)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Rollout":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {n: function(v) for n, v in values.items() if isinstance(v, Tensor)}
        return Rollout(**values | changed)


def concatenated(parts: Sequence[T]) -> T:
    """Trials, outcomes or rollouts of consecutive tasks as one: counts are summed.

    What one part does not have, the whole does not have.
    """

    def joined(values: list[Any]) -> Any:
        if any(value is None for value in values):
            return None
        return torch.cat(values) if isinstance(values[0], Tensor) else sum(values)

    kind = type(parts[0])
    names = [field.name for field in fields(kind)]
    return kind(**{name: joined([getattr(part, name) for part in parts]) for name in names})


def _rows(batch: T, rows: list[int]) -> T:
    """Rows of all tensors of a batch."""
    held = {field.name: getattr(batch, field.name) for field in fields(batch)}
    chosen: dict[str, Any] = {n: x[rows] for n, x in held.items() if isinstance(x, Tensor)}
    return replace(batch, **chosen)


def lengthened(values: Tensor, dim: int, size: int) -> Tensor:
    """The values with zeros at the end of a dimension."""
    missing = list(values.shape)
    missing[dim] = size - missing[dim]
    if not missing[dim]:
        return values
    return torch.cat([values, values.new_zeros(missing)], dim)


def expect_shapes(batch: object, **shapes: tuple[int, ...]) -> None:
    """Checks the shapes of the fields of a batch; a field that is None is passed over.

    Raises:
        ValueError: names the field, its shape and the one expected.

    """
    for name, expected in shapes.items():
        value = getattr(batch, name)
        if value is not None and tuple(value.shape) != expected:
            raise ValueError(
                f"{type(batch).__name__}.{name} has shape {tuple(value.shape)}, not {expected}"
            )


SMALLEST_WEIGHT = 1e-12
"""Less than this is no step at all."""


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

    def __post_init__(self) -> None:
        """Checks the shapes.

        Raises:
            ValueError: a field does not have its shape.

        """
        steps = tuple(self.weight.shape)
        per_step = ("log_probs", "advantages", "rewards", "values")
        expect_shapes(
            self,
            observations=(*steps, *self.observations.shape[3:]),
            actions=(*steps, *self.actions.shape[3:]),
            **dict.fromkeys(per_step, steps),
        )

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
        return math.prod(self.weight.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""
        return self.weight.device

    def without(self, tasks: Collection[int]) -> "Batch":
        """The batch in which the steps of these tasks weigh nothing."""
        if not tasks:
            return self
        weight = self.weight.clone()
        weight[list(tasks)] = 0
        return replace(self, weight=weight)

    def every(self, stride: int, first_task: int = 0) -> "Batch":
        """Every `stride`-th time step, from a first one that differs between episodes and tasks.

        The first steps of a task's episodes are spread evenly over a stride, and move by one from
        task to task, so that every time step is seen equally often. If all began alike, a sum over
        steps would be of some phases of a gait and not of others.

        Args:
            first_task: the number of the first task among those of all processes.

        """
        tasks, episodes, steps = self.weight.shape
        task = first_task + torch.arange(tasks, device=self.device)[:, None]
        episode = torch.arange(episodes, device=self.device) * stride // episodes
        first = (task + episode) % stride  # [tasks, episodes]
        t = first[..., None] + torch.arange(0, steps, stride, device=self.device)
        beyond = t >= steps

        def seen(values: Tensor) -> Tensor:
            index = t.clamp(max=steps - 1).reshape(*t.shape, *[1] * (values.dim() - 3))
            return values.gather(2, index.expand(*t.shape, *values.shape[3:]))

        batch = Batch(*(seen(getattr(self, f.name)) for f in fields(self)))
        return replace(batch, weight=batch.weight.masked_fill(beyond, 0))

    def sum(self, values: Tensor) -> Tensor:
        """Weighted sum over the steps of each task: [tasks, episodes, time] -> [tasks]."""
        return (values * self.weight).sum((1, 2))

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean over the steps of each task: [tasks, episodes, time] -> [tasks].

        It is 0 for a task without steps, which `every` can leave of a few short episodes.
        """
        return self.sum(values) / self.weight.sum((1, 2)).clamp(min=SMALLEST_WEIGHT)
