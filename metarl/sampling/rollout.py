"""Collecting rollouts: episodes of several tasks at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.policies.action_distributions import Distribution
from metarl.policies.mlp import Policy
from metarl.sampling.data import _TENSORS, Rollout
from metarl.simulation.protocol import Simulation
from metarl.support.errors import UsageError
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey, Use
from metarl.tasks.task import Tasks, select_tasks


def collect(
    simulations: Sequence[Simulation],
    policy: Policy,
    parameters: Mapping[str, Tensor],
    tasks: Tasks,
    episodes: int,
    horizon: int,
    key: RandomKey,
    stage: int,
    workers: Workers,
    observe_task: bool = False,
) -> Rollout:
    """`episodes` episodes of each task, one in each of the simulations' environments.

    Each simulation has its share of the tasks, in order, and a thread of its own: while one
    computes actions and rewards, another's physics keep the cores busy.

    Args:
        simulations: of tasks × episodes environments in all, which rest once their episode ended.
        parameters: of the policy, [tasks, ...]; actions are computed where they lie.
        tasks: arrays [tasks, ...].
        horizon: most steps an episode can have.
        key, stage: name the streams of resets and action noise.
        observe_task: the policy sees the task's parameters behind each observation.

    Returns:
        A rollout on the CPU.

    Raises:
        UsageError: an environment gave a reward or an observation that is not finite.
    """
    ends = np.cumsum([simulation.num_envs // episodes for simulation in simulations])
    shares = [slice(*bounds) for bounds in pairwise([0, *ends.tolist()])]

    def of_share(simulation: Simulation, share: slice) -> Rollout:
        own = {name: p[share] for name, p in parameters.items()}
        indices = range(share.start, share.stop)
        drawn = select_tasks(tasks, share)
        hints = _as_observations(drawn, episodes) if observe_task else None
        return _collect(
            simulation, policy, own, drawn, indices, episodes, horizon, key, stage, hints
        )

    return _joined(workers.map(of_share, simulations, shares))


@torch.no_grad()
def _collect(
    simulation: Simulation,
    policy: Policy,
    parameters: Mapping[str, Tensor],
    tasks: Tasks,
    indices: range,
    episodes: int,
    horizon: int,
    key: RandomKey,
    stage: int,
    hints: Tensor | None,
) -> Rollout:
    """The rollout of one simulation; `indices` number its tasks among all.

    `hints` [tasks, episodes, n] stand behind the observations.
    """
    number = len(indices)
    device = next(iter(parameters.values())).device
    # Time first, so that a longer horizon begins with the same noise.
    drawn = [policy.noise(key.generator(Use.ACTION, i, stage), horizon, episodes) for i in indices]
    noise = torch.from_numpy(np.stack(drawn, axis=1)).to(device)  # [time, tasks, episodes, action]
    bounds = action_bounds(simulation)

    def observed(observations: Tensor) -> Tensor:
        # A copy, for the simulation may write its next observations over these.
        x = observations.to(torch.float32, copy=True).reshape(number, episodes, -1)
        return x if hints is None else torch.cat([x, hints], -1)

    streams = [seed for i in indices for seed in key.seeds(Use.RESET, i, stage, episodes)]
    of_each = {name: np.repeat(values, episodes, axis=0) for name, values in tasks.items()}
    x = observed(simulation.begin(of_each, np.array(streams)))
    seen, distributions, taken, paid, valid = [], [], [], [], []
    ended = torch.zeros(simulation.num_envs, dtype=torch.bool, device=simulation.device)
    success: Tensor | None = None
    for t in range(horizon):
        distribution = policy.distribution(parameters, x.to(device))
        actions = distribution.sample(noise[t])
        flat = actions.to(simulation.device).flatten(0, 1)
        # The environment gets clipped actions; the policy is trained on what it drew.
        step = simulation.step(flat if bounds is None else flat.clamp(*bounds))
        seen.append(x)
        distributions.append(distribution)
        taken.append(actions)
        paid.append(step.rewards.clone())
        valid.append(~ended)
        if step.success is not None:
            reached = ~ended & step.success
            success = reached if success is None else success | reached
        ended = step.terminated | step.truncated
        x = observed(step.observations)
        # A GPU is not stopped to ask.
        if simulation.device.type == "cpu" and ended.all():
            break
    rollout = _assembled(
        seen, distributions, taken, paid, valid, step.terminated, x, int(step.failed.sum())
    )
    told = None if success is None else success.reshape(number, episodes).cpu()
    return dataclasses.replace(rollout, success=told)


def _assembled(
    seen: list[Tensor],
    distributions: list[Distribution],
    taken: list[Tensor],
    paid: list[Tensor],
    valid: list[Tensor],
    terminated: Tensor,
    final: Tensor,
    unstable: int,
) -> Rollout:
    """The rollout of what was kept step by step; checks that all of it is finite."""
    number, episodes = final.shape[:2]
    # [time, tasks × episodes] -> [tasks, episodes, time]
    mask, rewards = (
        torch.stack(steps, -1).reshape(number, episodes, -1).cpu() for steps in (valid, paid)
    )
    together = type(distributions[0])(
        *(torch.stack(part, 2) for part in zip(*distributions, strict=True))
    )
    actions = torch.stack(taken, 2)
    rollout = Rollout(
        # An ended episode rests in its last state; what it shows and draws there is no experience.
        observations=torch.stack(seen, 2).cpu() * mask.unsqueeze(-1),
        actions=_masked(actions.cpu(), mask),
        log_probs=together.log_prob(actions).cpu() * mask,
        rewards=rewards * mask,
        valid=mask,
        terminated=terminated.reshape(number, episodes).to("cpu", copy=True),
        final_observations=final.cpu(),
        unstable=unstable,
    )
    for name in ("observations", "rewards", "final_observations"):
        if not getattr(rollout, name).isfinite().all():
            raise UsageError(f"the environment gave {name.replace('_', ' ')} that are not finite")
    return rollout


def action_bounds(simulation: Simulation) -> tuple[Tensor, Tensor] | None:
    """The least and the largest actions, on the simulation's device; None for numbered ones."""
    space = simulation.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        return None
    low, high = (torch.from_numpy(bound).to(simulation.device) for bound in (space.low, space.high))
    return low, high


def _as_observations(tasks: Tasks, episodes: int) -> Tensor:
    """All parameters of each task, for each episode: [tasks, episodes, n]."""
    parts = [np.reshape(values, (len(values), -1)) for values in tasks.values()]
    hints = torch.from_numpy(np.concatenate(parts, 1).astype(np.float32))
    return hints.unsqueeze(1).expand(-1, episodes, -1)


def _masked(actions: Tensor, mask: Tensor) -> Tensor:
    return actions * (mask.unsqueeze(-1) if actions.dim() > mask.dim() else mask)


def _joined(rollouts: list[Rollout]) -> Rollout:
    """The rollouts of several simulations as one, padded to the longest."""
    longest = max(rollout.valid.shape[2] for rollout in rollouts)
    told = [rollout.success for rollout in rollouts if rollout.success is not None]

    def padded(name: str, values: Tensor) -> Tensor:
        if name in ("terminated", "final_observations") or values.shape[2] == longest:
            return values
        missing = (*values.shape[:2], longest - values.shape[2], *values.shape[3:])
        return torch.cat([values, values.new_zeros(missing)], 2)

    return Rollout(
        **{n: torch.cat([padded(n, getattr(r, n)) for r in rollouts]) for n in _TENSORS},
        unstable=sum(rollout.unstable for rollout in rollouts),
        success=torch.cat(told) if len(told) == len(rollouts) else None,
    )
