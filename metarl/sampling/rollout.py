"""Collecting rollouts: episodes of several tasks at once."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from metarl.policies.action_distributions import Distribution
from metarl.policies.action_units import ActionUnits
from metarl.sampling.actor import Actor
from metarl.sampling.data import Rollout, concatenated
from metarl.sampling.info import InfoMetric, per_episode
from metarl.simulation.protocol import Simulation, Step
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey, Use
from metarl.tasks.task import Tasks, select_tasks


def collect(
    simulations: Sequence[Simulation],
    actor: Actor,
    units: ActionUnits,
    tasks: Tasks,
    episodes: int,
    horizon: int,
    key: RandomKey,
    stage: int,
    workers: Workers,
    first_task: int = 0,
    info: Sequence[InfoMetric] = (),
) -> Rollout:
    """`episodes` episodes of each task, one in each of the simulations' environments.

    Each simulation has its share of the tasks, in order, and a thread of its own: while one
    computes actions and rewards, another's physics keep the cores busy.

    Args:
        simulations: of tasks × episodes environments in all, which rest once their episode ended.
        actor: of all tasks; its actions are computed where its parameters lie.
        units: of the policy's actions in the environment's.
        tasks: arrays [tasks, ...].
        horizon: most steps an episode can have.
        key, stage: name the streams of resets and action noise.
        first_task: the number of the first task among those of all processes.
        info: what `Step.info` of the simulations holds, and what the rollout has of it.

    Returns:
        A rollout on the CPU.
    """
    ends = np.cumsum([simulation.num_envs // episodes for simulation in simulations])
    shares = [slice(*bounds) for bounds in pairwise([0, *ends.tolist()])]

    def of_share(simulation: Simulation, share: slice) -> Rollout:
        indices = range(first_task + share.start, first_task + share.stop)
        own = select_tasks(tasks, share)
        part = actor.part(share)
        return _collect(simulation, part, units, own, indices, episodes, horizon, key, stage, info)

    return _joined(workers.map(of_share, simulations, shares))


class _Recording:
    """Buffers [time, tasks, episodes, ...] of what each step gives, made at the first step."""

    def __init__(self, horizon: int):
        self._horizon = horizon
        self._buffers: dict[str, Tensor] = {}

    def write(self, t: int, **values: Tensor) -> None:
        """Keeps the values of step t."""
        for name, value in values.items():
            if name not in self._buffers:
                self._buffers[name] = value.new_zeros((self._horizon, *value.shape))
            self._buffers[name][t] = value

    def read(self, name: str, steps: int) -> Tensor:
        """The values of the first steps: [tasks, episodes, time, ...]."""
        return self._buffers[name][:steps].permute(1, 2, 0, *self._rest(name)).contiguous()

    def __contains__(self, name: str) -> bool:
        return name in self._buffers

    def _rest(self, name: str) -> range:
        return range(3, self._buffers[name].dim())


@torch.no_grad()
def _collect(
    simulation: Simulation,
    actor: Actor,
    units: ActionUnits,
    tasks: Tasks,
    indices: range,
    episodes: int,
    horizon: int,
    key: RandomKey,
    stage: int,
    info: Sequence[InfoMetric],
) -> Rollout:
    """The rollout of one simulation; `indices` number its tasks among all."""
    shape = (len(indices), episodes)
    noise = _noise(actor, key, indices, stage, horizon, episodes)
    streams = [seed for i in indices for seed in key.seeds(Use.RESET, i, stage, episodes)]
    repeated = {name: np.repeat(values, episodes, axis=0) for name, values in tasks.items()}
    units = units.to(simulation.device)

    def perceived(observations: Tensor) -> Tensor:
        # A copy, because the simulation may write its next observations over these. Images stay
        # bytes, a quarter of the memory.
        kept = torch.uint8 if observations.dtype == torch.uint8 else torch.float32
        x = observations.to(actor.device, kept, copy=True)
        return actor.perceive(x.reshape(*shape, -1))

    x = perceived(simulation.begin(repeated, np.array(streams)))
    recording = _Recording(horizon)
    ended = torch.zeros(shape, dtype=torch.bool, device=simulation.device)
    for t in range(horizon):
        distribution, values = actor.act(x)
        actions = distribution.sample(noise[t])
        # An action that is not finite is found with the whole rollout, and never acted out.
        flat = actions.to(simulation.device).flatten(0, 1).nan_to_num(0.0, 0.0, 0.0)
        step = simulation.step(units.to_environment(flat))
        active, rewards = ~ended, step.rewards.reshape(shape)
        actor.remember(actions, rewards, active)
        parts = {f"part_{i}": part for i, part in enumerate(distribution)}
        recording.write(t, x=x, actions=actions, rewards=rewards, valid=active, **parts)
        if values is not None:
            recording.write(t, values=values)
        if step.success is not None:
            recording.write(t, success=active & step.success.reshape(shape))
        if step.info is not None:
            recording.write(t, info=step.info.reshape(*shape, -1))
        ended = (step.terminated | step.truncated).reshape(shape)
        x = perceived(step.observations)
        # On a GPU, asking would wait for the step.
        if simulation.device.type == "cpu" and ended.all():
            break
    return _assembled(recording, type(distribution), t + 1, step, x.cpu(), info)


def _noise(
    actor: Actor, key: RandomKey, indices: range, stage: int, horizon: int, episodes: int
) -> Tensor:
    """What actions are sampled with, where they are computed: [time, tasks, episodes, ...]."""
    # Time first, so that a longer horizon begins with the same noise.
    drawn = [actor.noise(key.generator(Use.ACTION, i, stage), horizon, episodes) for i in indices]
    return torch.from_numpy(np.stack(drawn, axis=1)).to(actor.device)


def _assembled(
    recording: _Recording,
    kind: type[Distribution],
    steps: int,
    last: Step,
    final: Tensor,
    info: Sequence[InfoMetric],
) -> Rollout:
    """The rollout of what was recorded."""
    mask, actions = recording.read("valid", steps).cpu(), recording.read("actions", steps)
    number = sum(f"part_{i}" in recording for i in range(2))
    together = kind(*(recording.read(f"part_{i}", steps) for i in range(number)))
    return Rollout(
        # An ended episode rests in its last state; what it shows and draws there is no experience.
        observations=_masked(recording.read("x", steps).cpu(), mask),
        actions=_masked(actions.cpu(), mask),
        log_probs=_masked(together.log_prob(actions).cpu(), mask),
        rewards=_masked(recording.read("rewards", steps).cpu(), mask),
        valid=mask,
        terminated=last.terminated.reshape(mask.shape[:2]).to("cpu", copy=True),
        final_observations=final,
        unstable=int(last.failed.sum()),
        success=recording.read("success", steps).any(-1).cpu() if "success" in recording else None,
        values=_masked(recording.read("values", steps).cpu(), mask)
        if "values" in recording
        else None,
        info=per_episode(recording.read("info", steps).cpu(), mask, info) if info else None,
    )


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """0 on padding, whatever was there."""
    padding = ~(mask.unsqueeze(-1) if values.dim() > mask.dim() else mask)
    return values.masked_fill(padding, 0)


def _joined(rollouts: list[Rollout]) -> Rollout:
    """The rollouts of several simulations as one, padded to the longest."""
    longest = max(rollout.valid.shape[2] for rollout in rollouts)
    return concatenated([rollout.padded(longest) for rollout in rollouts])
