"""Trials: several consecutive episodes of one task, through which a hidden state is kept."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metarl.policies.mlp import CategoricalPolicy, GaussianPolicy
from metarl.policies.recurrent import RecurrentPolicy
from metarl.sampling.data import PER_STEP, Trials
from metarl.sampling.rollout import action_bounds
from metarl.simulation.protocol import Simulation
from metarl.support.errors import UsageError
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey, Use
from metarl.tasks.task import Tasks, select_tasks


def collect_trials(
    simulations: Sequence[Simulation],
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
    of `metarl.sampling.rollout.collect`, with the episode's index for the stage.

    Raises:
        UsageError: an environment gave a reward or an observation that is not finite.

    """
    ends = np.cumsum([simulation.num_envs // repeats for simulation in simulations])
    shares = [range(*bounds) for bounds in pairwise([0, *ends.tolist()])]

    def of_share(simulation: Simulation, share: range) -> Trials:
        own = select_tasks(tasks, slice(share.start, share.stop))
        own = {name: np.repeat(values, repeats, axis=0) for name, values in own.items()}
        return _collect(simulation, spaces, network, own, share, repeats, episodes, horizon, key)

    return _joined(workers.map(of_share, simulations, shares))


@torch.no_grad()
def _collect(
    simulation: Simulation,
    spaces: GaussianPolicy | CategoricalPolicy,
    network: RecurrentPolicy,
    tasks: Tasks,
    indices: range,
    repeats: int,
    episodes: int,
    horizon: int,
    key: RandomKey,
) -> Trials:
    """The trials of one simulation, of tasks [num_envs, ...]; `indices` number them among all."""
    number, device = simulation.num_envs, network.actor.weight.device
    bounds = action_bounds(simulation)
    hidden = torch.zeros(1, number, network.gru.hidden_size, device=device)
    action = torch.zeros(number, network.action_size, device=device)
    reward = torch.zeros(number, dtype=torch.float64)
    steps: list[tuple[Tensor, ...]] = []  # of all episodes, one after the other
    returns = torch.zeros(number, episodes, dtype=torch.float64)
    success, tells, unstable = torch.zeros(number, episodes, dtype=torch.bool), False, 0

    for episode in range(episodes):
        seeds = [s for i in indices for s in key.seeds(Use.RESET, i, episode, repeats)]
        generators = [key.generator(Use.ACTION, i, episode) for i in indices]
        # Time first, so that a longer horizon begins with the same noise.
        drawn = np.stack([spaces.noise(g, horizon, repeats) for g in generators], axis=1)
        noise = torch.from_numpy(drawn).to(device).flatten(1, 2).unsqueeze(2)
        observations = simulation.begin(tasks, np.array(seeds))
        ended = torch.zeros(number, dtype=torch.bool)
        began = torch.ones(number, 1, device=device)
        for t in range(horizon):
            x = observations.float().reshape(number, -1)
            seen = torch.cat([x, reward.float().unsqueeze(-1)], -1).to(device)
            inputs = torch.cat([seen, action, began], -1)
            distribution, values, later = network(inputs.unsqueeze(1), hidden)
            actions = distribution.sample(noise[t])  # [trials, 1, ...]
            log_probs = distribution.log_prob(actions)
            # The environment gets clipped actions; the policy is trained on what it drew.
            flat = actions.squeeze(1).to(simulation.device)
            step = simulation.step(flat if bounds is None else flat.clamp(*bounds))
            observations, valid, rewards = step.observations, ~ended, step.rewards.clone()
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
            if step.success is not None:
                tells = True
                success[:, episode] |= valid & step.success
            ended = step.terminated | step.truncated
            if ended.all():
                break
        unstable += int(step.failed.sum())
    told = success if tells else None
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
