"""Collecting rollouts: episodes of several tasks at once."""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.policies.action_distributions import Distribution
from metarl.policies.mlp import Policy
from metarl.sampling.data import _TENSORS, Rollout
from metarl.support.errors import UsageError
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey, Use
from metarl.tasks.task import Tasks, select_tasks

_BEGINNING = threading.Lock()
"""Held while episodes begin, which is Python from end to end: two simulations that take turns at it
begin no later, and the first one's physics run meanwhile."""


def collect(
    simulations: Sequence[gymnasium.vector.VectorEnv],
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

    def of_share(simulation: gymnasium.vector.VectorEnv, share: slice) -> Rollout:
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
    simulation: gymnasium.vector.VectorEnv,
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
    space = simulation.single_action_space
    bounds = (space.low, space.high) if isinstance(space, gymnasium.spaces.Box) else None

    def observed(observations: Any) -> Tensor:
        x = torch.from_numpy(np.asarray(observations, np.float32)).reshape(number, episodes, -1)
        return x if hints is None else torch.cat([x, hints], -1)

    with _BEGINNING:
        simulation.task = {name: np.repeat(v, episodes, axis=0) for name, v in tasks.items()}  # type: ignore[attr-defined]
        seeds = [seed for i in indices for seed in key.seeds(Use.RESET, i, stage, episodes)]
        observations, _ = simulation.reset(seed=seeds)  # type: ignore[arg-type]
    x = observed(observations)
    seen, distributions, taken, paid, valid = [], [], [], [], []
    ended, unstable = np.zeros(simulation.num_envs, bool), 0
    success, tells = np.zeros(simulation.num_envs, bool), False
    for t in range(horizon):
        distribution = policy.distribution(parameters, x.to(device))
        actions = distribution.sample(noise[t])
        flat = actions.cpu().flatten(0, 1).numpy()
        # The environment gets clipped actions; the policy is trained on what it drew.
        observations, rewards, terminated, truncated, info = simulation.step(
            flat if bounds is None else np.clip(flat, *bounds)
        )
        seen.append(x)
        distributions.append(distribution)
        taken.append(actions)
        paid.append(rewards)
        valid.append(~ended)
        unstable += int(np.sum(info.get("unstable", 0)))
        if "success" in info:
            tells = True
            success |= ~ended & (np.asarray(info["success"]) > 0)
        ended = terminated | truncated
        x = observed(observations)
        if ended.all():
            break
    rollout = _assembled(seen, distributions, taken, paid, valid, terminated, x, unstable)
    reached = torch.from_numpy(success).reshape(number, episodes) if tells else None
    return dataclasses.replace(rollout, success=reached)


def _assembled(
    seen: list[Tensor],
    distributions: list[Distribution],
    taken: list[Tensor],
    paid: list[np.ndarray],
    valid: list[np.ndarray],
    terminated: np.ndarray,
    final: Tensor,
    unstable: int,
) -> Rollout:
    """The rollout of what was kept step by step; checks that all of it is finite."""
    number, episodes = final.shape[:2]
    # [time, tasks × episodes] -> [tasks, episodes, time]
    mask, rewards = (
        torch.from_numpy(np.stack(steps, axis=-1)).reshape(number, episodes, -1)
        for steps in (valid, paid)
    )
    together = type(distributions[0])(
        *(torch.stack(part, 2) for part in zip(*distributions, strict=True))
    )
    actions = torch.stack(taken, 2)
    rollout = Rollout(
        # An ended episode rests in its last state; what it shows and draws there is no experience.
        observations=torch.stack(seen, 2) * mask.unsqueeze(-1),
        actions=_masked(actions.cpu(), mask),
        log_probs=together.log_prob(actions).cpu() * mask,
        rewards=rewards.double() * mask,
        valid=mask,
        terminated=torch.from_numpy(terminated).reshape(number, episodes),
        final_observations=final,
        unstable=unstable,
    )
    for name in ("observations", "rewards", "final_observations"):
        if not getattr(rollout, name).isfinite().all():
            raise UsageError(f"the environment gave {name.replace('_', ' ')} that are not finite")
    return rollout


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
