"""A recurrent policy, and the trials that it is run on.

A *trial* is several consecutive episodes of one task, through which the hidden state is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from metarl.errors import UsageError
from metarl.parallel import Workers
from metarl.policy import (
    MINIMUM_LOG_STD,
    Categorical,
    CategoricalPolicy,
    Distribution,
    Gaussian,
    GaussianPolicy,
)
from metarl.randomness import RandomKey, Use
from metarl.tasks import Tasks, select_tasks

LARGEST_INPUT = 10.0
"""Normalised inputs are clipped to ± this."""
SMALLEST_STD = 1e-4
"""What varies less is not scaled up further."""


class Statistics(nn.Module):
    """Mean and deviation of all rows seen so far, in float64; a part of the network's state."""

    count: Tensor
    sums: Tensor  # [2, size], of the rows and of their squares

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(2, size, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Counts rows [n, size] in."""
        rows = rows.to(self.sums)
        self.count += len(rows)
        self.sums += torch.stack([rows.sum(0), rows.square().sum(0)])

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation: [size]; 0 and 1 as long as nothing was seen."""
        mean, square = self.sums / self.count.clamp(min=1)
        std = (square - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_STD)
        return mean, torch.where(self.count > 0, std, 1.0)


class RecurrentPolicy(nn.Module):
    """A GRU over a trial with two linear heads: the distribution of actions, and the value.

    An input is (observation, previous reward, previous action, has an episode just begun); the
    first two are normalised by what was seen in earlier iterations, values are in units of the
    deviation of discounted returns.
    """

    def __init__(self, spaces: GaussianPolicy | CategoricalPolicy, hidden_size: int, seed: int):
        """`spaces` knows the sizes, and whether actions are discrete."""
        super().__init__()
        self.is_discrete = isinstance(spaces, CategoricalPolicy)
        self.action_size = spaces.action_size
        self.seen = Statistics(spaces.observation_size + 1)
        self.returns = Statistics(1)
        size = spaces.observation_size + 1 + spaces.action_size + 1
        self.gru = nn.GRU(size, hidden_size, batch_first=True)
        self.actor = nn.Linear(hidden_size, spaces.action_size)
        self.critic = nn.Linear(hidden_size, 1)
        if not self.is_discrete:
            self.log_std = nn.Parameter(torch.zeros(spaces.action_size))
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        """Orthogonal matrices and zero biases; the policy begins nearly without preferences."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
                continue
            # The GRU's matrices are those of its three gates, one below the other.
            for matrix in parameter.chunk(3 if name.startswith("gru") else 1):
                gain = 0.01 if name.startswith("actor") else 1.0
                nn.init.orthogonal_(matrix, gain, generator=generator)

    def forward(
        self, inputs: Tensor, hidden: Tensor | None = None
    ) -> tuple[Distribution, Tensor, Tensor]:
        """Reads [trials, steps, input], from a zero state if none is given.

        Returns:
            π(· | history) [trials, steps, ...], values [trials, steps] and the hidden state after
            the last step [1, trials, hidden].

        """
        mean, std = self.seen.moments
        seen, rest = inputs[..., : len(mean)], inputs[..., len(mean) :]
        normalised = ((seen - mean) / std).clamp(-LARGEST_INPUT, LARGEST_INPUT).float()
        features, hidden = self.gru(torch.cat([normalised, rest], -1), hidden)
        output, values = self.actor(features), self.critic(features).squeeze(-1)
        if self.is_discrete:
            return Categorical(torch.log_softmax(output, -1)), values, hidden
        return Gaussian(output, self.log_std.clamp(min=MINIMUM_LOG_STD)), values, hidden

    def shown(self, actions: Tensor) -> Tensor:
        """Actions as the next input has them, one-hot if discrete: [..., action]."""
        if self.is_discrete:
            return nn.functional.one_hot(actions, self.action_size).float()
        return actions


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


def collect_trials(
    simulations: Sequence[gymnasium.vector.VectorEnv],
    spaces: GaussianPolicy | CategoricalPolicy,
    network: RecurrentPolicy,
    tasks: Tasks,
    repeats: int,
    episodes: int,
    horizon: int,
    key: RandomKey,
    workers: Workers,
) -> Trials:
    """`repeats` trials of each task, one in each of the simulations' environments.

    Each simulation has its share of the tasks, in order, and a thread of its own. Streams are those
    of `metarl.rollout.collect`, with the episode's index for the stage.

    Raises:
        UsageError: an environment gave a reward or an observation that is not finite.

    """
    ends = np.cumsum([simulation.num_envs // repeats for simulation in simulations])
    shares = [range(*bounds) for bounds in pairwise([0, *ends.tolist()])]

    def of_share(simulation: gymnasium.vector.VectorEnv, share: range) -> Trials:
        own = select_tasks(tasks, slice(share.start, share.stop))
        simulation.task = {n: np.repeat(v, repeats, axis=0) for n, v in own.items()}  # type: ignore[attr-defined]
        return _collect(simulation, spaces, network, share, repeats, episodes, horizon, key)

    return _joined(workers.map(of_share, simulations, shares))


@torch.no_grad()
def _collect(
    simulation: gymnasium.vector.VectorEnv,
    spaces: GaussianPolicy | CategoricalPolicy,
    network: RecurrentPolicy,
    indices: range,
    repeats: int,
    episodes: int,
    horizon: int,
    key: RandomKey,
) -> Trials:
    """The trials of one simulation; `indices` number its tasks among all."""
    number, device = simulation.num_envs, network.actor.weight.device
    space = simulation.single_action_space
    bounds = (space.low, space.high) if isinstance(space, gymnasium.spaces.Box) else None
    hidden = torch.zeros(1, number, network.gru.hidden_size, device=device)
    action = torch.zeros(number, network.action_size, device=device)
    reward = torch.zeros(number, dtype=torch.float64)
    steps: list[tuple[Tensor, ...]] = []  # of all episodes, one after the other
    returns = torch.zeros(number, episodes, dtype=torch.float64)
    success, tells, unstable = np.zeros((number, episodes), bool), False, 0

    for episode in range(episodes):
        seeds = [s for i in indices for s in key.seeds(Use.RESET, i, episode, repeats)]
        generators = [key.generator(Use.ACTION, i, episode) for i in indices]
        # Time first, so that a longer horizon begins with the same noise.
        drawn = np.stack([spaces.noise(g, horizon, repeats) for g in generators], axis=1)
        noise = torch.from_numpy(drawn).to(device).flatten(1, 2).unsqueeze(2)
        observations, _ = simulation.reset(seed=seeds)  # type: ignore[arg-type]
        ended, began = np.zeros(number, bool), torch.ones(number, 1, device=device)
        for t in range(horizon):
            x = torch.from_numpy(np.asarray(observations, np.float32)).reshape(number, -1)
            seen = torch.cat([x, reward.float().unsqueeze(-1)], -1).to(device)
            inputs = torch.cat([seen, action, began], -1)
            distribution, values, later = network(inputs.unsqueeze(1), hidden)
            actions = distribution.sample(noise[t])  # [trials, 1, ...]
            log_probs = distribution.log_prob(actions)
            # The environment gets clipped actions; the policy is trained on what it drew.
            flat = actions.squeeze(1).cpu().numpy()
            observations, paid, terminated, truncated, info = simulation.step(
                flat if bounds is None else np.clip(flat, *bounds)
            )
            valid, rewards = torch.from_numpy(~ended), torch.from_numpy(paid).double()
            steps.append(
                (inputs, *(y.squeeze(1) for y in (actions, log_probs, values)), rewards, valid)
            )
            # A trial whose episode has ended rests until all have: nothing it remembers may move.
            going = valid.to(device).unsqueeze(-1)
            hidden = torch.where(going, later, hidden)
            action = torch.where(going, network.shown(actions.squeeze(1)), action)
            reward = torch.where(valid, rewards, reward)
            began = torch.zeros_like(began)
            returns[:, episode] += rewards * valid
            unstable += int(np.sum(info.get("unstable", 0)))
            if "success" in info:
                tells = True
                success[:, episode] |= ~ended & (np.asarray(info["success"]) > 0)
            ended = terminated | truncated
            if ended.all():
                break
    told = torch.from_numpy(success) if tells else None
    return _packed(steps, returns, told, unstable)


def _packed(
    steps: list[tuple[Tensor, ...]], returns: Tensor, success: Tensor | None, unstable: int
) -> Trials:
    """The trials of what was kept step by step, the rests of ended episodes left out.

    As the hidden state stands still in a rest, a GRU over the packed steps passes through the
    states of sampling.
    """
    stacked = [torch.stack(values, 1) for values in zip(*steps, strict=True)]
    valid = stacked[-1]
    packed = {
        name: pad_sequence([x[m.to(x.device)] for x, m in zip(values, valid, strict=True)], True)
        for name, values in zip(PER_STEP, stacked, strict=True)
    }
    for name, shown in (("inputs", "observations"), ("rewards", "rewards")):
        if not packed[name].isfinite().all():
            raise UsageError(f"the environment gave {shown} that are not finite")
    return Trials(**packed, returns=returns, success=success, unstable=unstable)


def _joined(parts: list[Trials]) -> Trials:
    """The trials of several simulations as one, padded to the longest."""
    told = [part.success for part in parts if part.success is not None]
    return Trials(
        **{n: pad_sequence([x for p in parts for x in getattr(p, n)], True) for n in PER_STEP},
        returns=torch.cat([part.returns for part in parts]),
        success=torch.cat(told) if len(told) == len(parts) else None,
        unstable=sum(part.unstable for part in parts),
    )
