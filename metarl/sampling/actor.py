"""What acts while rollouts are collected."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from array_api_compat import array_namespace
from torch import Tensor

from metarl.policies.action_distributions import Distribution
from metarl.policies.policy import Policy
from metarl.sampling.data import Rollout, lengthened
from metarl.support.errors import UsageError
from metarl.support.forms import form_of
from metarl.support.randomness import Array, NoiseSource


class Actor(Protocol):
    """Acts in `episodes` episodes of each of several tasks at once."""

    @property
    def device(self) -> torch.device:
        """Where actions are computed."""

    def part(self, tasks: slice) -> Self:
        """The actor of some of the tasks; a memory is shared with the whole, not copied."""

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """What `Distribution.sample` takes: [*shape, action]."""

    def perceive(self, observations: Tensor) -> Tensor:
        """What the policy sees at this step: [tasks, episodes, observation] -> [..., input]."""

    def act(self, inputs: Tensor) -> tuple[Distribution, Tensor | None]:
        """The distribution of the next actions, and state values [tasks, episodes] if any."""

    def remember(self, actions: Tensor, rewards: Tensor, active: Tensor) -> None:
        """Keeps what a step did, in the episodes that had not ended before: [tasks, episodes]."""


class Adaptive(Protocol):
    """What adapts to tasks: parameters (MAML), a hidden state (RL²), a posterior."""

    def actor(self) -> Actor:
        """Acts in the next episodes."""

    def learn(self, rollout: Rollout) -> "Adaptive":
        """Adapted to these episodes of its tasks; it may be the same object, changed."""


def acted(actor: Actor, inputs: Tensor) -> tuple[Distribution, Tensor | None]:
    """What `actor.act` returns.

    Raises:
        UsageError: it is no distribution and values.

    """
    result: Any = actor.act(inputs)
    match result:
        case (distribution, Tensor() | None as values) if hasattr(distribution, "log_prob"):
            return distribution, values
    whose, kind = _named(actor, "act"), type(result).__name__
    raise UsageError(f"{whose} must return (distribution, values or None), not a {kind}")


def expect_noise(actor: Actor, noise: Any, *shape: int) -> None:
    """Checks the form of an actor's noise, [*shape, action], or more dimensions of actions.

    Raises:
        UsageError: it is another.

    """
    own = np.shape(noise)
    if own[: len(shape)] != shape or len(own) == len(shape):
        wanted = ", ".join(map(str, shape))
        raise UsageError(
            f"{_named(actor, 'noise')} must return [*shape, action], here [{wanted}, action], not "
            f"{form_of(noise)}"
        )


def _named(actor: Actor, method: str) -> str:
    """A method of the actor that a learner made."""
    own = actor.actor if isinstance(actor, MostLikely) else actor
    return f"{type(own).__name__}.{method}"


ROWS_PER_BLOCK = 8
"""Rows of a product while acting are filled up to a multiple of this.

The last bits of a product depend on where in memory its rows begin, and on how many there are.
With whole blocks, a task's actions are the same in whatever company of tasks they are computed.
"""


def in_blocks(inputs: Tensor, dim: int) -> Tensor:
    """The inputs with zeros at the end of a dimension, up to whole blocks."""
    blocks = -(-inputs.shape[dim] // ROWS_PER_BLOCK)
    return lengthened(inputs, dim, blocks * ROWS_PER_BLOCK)


def of_rows(distribution: Distribution, *rows: slice) -> Distribution:
    """The distribution of the actions of some rows; σ may be that of all rows of a task."""
    first, *others = distribution
    return type(distribution)(first[rows], *(part[rows[0]] for part in others))


@dataclass(frozen=True)
class PolicyActor:
    """A policy with parameters of its own for each task."""

    policy: Policy
    parameters: Mapping[str, Tensor]  # [tasks, ...]
    hints: Tensor | None = None  # [tasks, n]: appended to every observation of a task

    @property
    def device(self) -> torch.device:
        """That of the parameters."""
        return next(iter(self.parameters.values())).device

    def part(self, tasks: slice) -> "PolicyActor":
        """The actor of some of the tasks."""
        own = {name: p[tasks] for name, p in self.parameters.items()}
        return PolicyActor(self.policy, own, None if self.hints is None else self.hints[tasks])

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """The policy's."""
        return self.policy.noise(generator, *shape)

    def perceive(self, observations: Tensor) -> Tensor:
        """The observation, and the hints behind it."""
        if self.hints is None:
            return observations
        hints = self.hints.unsqueeze(1).expand(-1, observations.shape[1], -1)
        return torch.cat([observations, hints], -1)

    def act(self, inputs: Tensor) -> tuple[Distribution, Tensor | None]:
        """π(· | s)."""
        tasks, episodes = inputs.shape[:2]
        parameters, rows = self.parameters, in_blocks(inputs, 1)
        if tasks == 1:  # a batch of one product is computed in another way than of several
            parameters = {name: p.expand(2, *p.shape[1:]) for name, p in parameters.items()}
            rows = rows.expand(2, *rows.shape[1:])
        distribution = self.policy.distribution(parameters, rows)
        return of_rows(distribution, slice(tasks), slice(episodes)), None

    def remember(self, actions: Tensor, rewards: Tensor, active: Tensor) -> None:
        """Nothing: the policy has no memory."""


@dataclass(frozen=True)
class MostLikely:
    """An actor that always takes the most likely action: the mean of a normal distribution."""

    actor: Actor

    @property
    def device(self) -> torch.device:
        """Where actions are computed."""
        return self.actor.device

    def part(self, tasks: slice) -> "MostLikely":
        """The actor of some of the tasks."""
        return MostLikely(self.actor.part(tasks))

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """None at all: `Distribution.sample` takes the mode then."""
        drawn = self.actor.noise(generator, *shape)
        return array_namespace(drawn).zeros_like(drawn)

    def perceive(self, observations: Tensor) -> Tensor:
        """What the actor sees."""
        return self.actor.perceive(observations)

    def act(self, inputs: Tensor) -> tuple[Distribution, Tensor | None]:
        """What the actor does."""
        return self.actor.act(inputs)

    def remember(self, actions: Tensor, rewards: Tensor, active: Tensor) -> None:
        """What the actor keeps."""
        self.actor.remember(actions, rewards, active)
