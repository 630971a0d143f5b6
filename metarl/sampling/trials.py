"""Trials: several consecutive episodes of one task, through which a recurrent state is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metarl.policies.action_distributions import Distribution
from metarl.policies.recurrent import RecurrentPolicy
from metarl.sampling.actor import in_blocks, of_rows
from metarl.sampling.data import PER_STEP, Rollout, Trials
from metarl.support.randomness import Array, NoiseSource


@dataclass(frozen=True)
class Memory:
    """What a recurrent policy has of its trials so far; an actor changes it in place."""

    hidden: Tensor  # [1, trials, hidden]
    action: Tensor  # [trials, action], as the next input has it
    reward: Tensor  # [trials] float64
    elapsed: Tensor  # [trials, 2]: steps since the episode and since the trial began

    @classmethod
    def empty(cls, network: RecurrentPolicy, trials: int) -> Self:
        """Before the first episode."""
        device = network.actor.weight.device
        return cls(
            torch.zeros(1, trials, network.gru.hidden_size, device=device),
            torch.zeros(trials, network.actions.outputs, device=device),
            torch.zeros(trials, dtype=torch.float64, device=device),
            torch.zeros(trials, 2, device=device),
        )

    def for_an_episode(self) -> Self:
        """A copy, at the begin of an episode."""
        own = type(self)(*(getattr(self, field.name).clone() for field in fields(self)))
        own.elapsed[:, 0] = 0.0
        return own


class TrialActor:
    """A recurrent policy in trials of one environment each: an `Actor` and an `Adaptive`.

    Adapting is acting: `learn` gives the memory of the last actor, from which the next episode
    begins.
    """

    def __init__(self, network: RecurrentPolicy, memory: Memory):
        self.memory = memory
        self._network = network
        self._later = memory.hidden
        self._last = self

    @property
    def device(self) -> torch.device:
        """That of the network."""
        return self.memory.hidden.device

    def actor(self) -> "TrialActor":
        """At the begin of an episode, with a memory of its own."""
        self._last = TrialActor(self._network, self.memory.for_an_episode())
        return self._last

    def learn(self, rollout: Rollout) -> "TrialActor":
        """The last actor, whose memory has the rollout already."""
        return self._last

    def part(self, tasks: slice) -> "TrialActor":
        """The actor of some of the trials; what it remembers, the whole remembers."""
        own, memory = slice(tasks.start, tasks.stop), self.memory
        part = Memory(
            memory.hidden[:, own], memory.action[own], memory.reward[own], memory.elapsed[own]
        )
        return TrialActor(self._network, part)

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """As a policy without memory has it."""
        return self._network.actions.noise(generator, *shape)

    def perceive(self, observations: Tensor) -> Tensor:
        """The input of `RecurrentPolicy`: [trials, 1, input]."""
        memory = self.memory
        seen = torch.cat([observations.squeeze(1), memory.reward.float().unsqueeze(-1)], -1)
        began = (memory.elapsed[:, :1] == 0).float()
        return torch.cat([seen, memory.action, began, memory.elapsed], -1).unsqueeze(1)

    def act(self, inputs: Tensor) -> tuple[Distribution, Tensor | None]:
        """π(· | history) and the values: [trials, 1, ...]."""
        trials = slice(len(inputs))
        distribution, values, later = self._network(
            in_blocks(inputs, 0), in_blocks(self.memory.hidden, 1)
        )
        self._later = later[:, trials]
        return of_rows(distribution, trials), values[trials]

    def remember(self, actions: Tensor, rewards: Tensor, active: Tensor) -> None:
        """A trial whose episode has ended rests until all have: its memory stays as it is."""
        memory, device = self.memory, self.device
        going = active.to(device)
        memory.hidden.copy_(torch.where(going, self._later, memory.hidden))
        shown = self._network.actions.shown(actions.squeeze(1))
        memory.action.copy_(torch.where(going, shown, memory.action))
        memory.reward.copy_(
            torch.where(going.squeeze(1), rewards.to(device).squeeze(1), memory.reward)
        )
        memory.elapsed.add_(going)


def join_trials(rollouts: Sequence[Rollout]) -> Trials:
    """The trials of consecutive rollouts [trials, 1, time, ...], without gaps between episodes.

    As the hidden state stands still while an ended episode rests, a GRU over the joined steps
    passes through the states of sampling.
    """
    valid = torch.cat([rollout.valid.squeeze(1) for rollout in rollouts], 1)
    names = dict(zip(PER_STEP, ("observations", *PER_STEP[1:]), strict=True))

    def joined(name: str) -> Tensor:
        steps = torch.cat([getattr(rollout, name).squeeze(1) for rollout in rollouts], 1)
        return pad_sequence([x[m] for x, m in zip(steps, valid, strict=True)], True)

    rates = [r.success.squeeze(1) for r in rollouts if r.success is not None]
    return Trials(
        **{name: joined(field) for name, field in names.items()},
        returns=torch.stack([rollout.returns.squeeze(1) for rollout in rollouts], 1),
        success=torch.stack(rates, 1) if len(rates) == len(rollouts) else None,
        unstable=sum(rollout.unstable for rollout in rollouts),
    )
