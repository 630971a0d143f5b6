"""Collecting rollouts: episodes of several tasks at once."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.policies.action_distributions import Distribution
from metarl.policies.action_units import ActionUnits
from metarl.sampling.actor import Actor, acted, expect_noise
from metarl.sampling.data import Rollout, concatenated
from metarl.sampling.info import InfoMetric, per_episode
from metarl.sampling.noise import CountedNoise
from metarl.simulation.protocol import Simulation, Step
from metarl.support.graphs import Replayed, own_stream
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey, Use
from metarl.tasks.task import Tasks, count_tasks, select_tasks


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
    computes actions and rewards, another's physics keep the cores busy. Where there are fewer
    environments than episodes in all, they take the tasks in rounds.

    Args:
        simulations: whose environments rest once their episode ended; those of all together have
            the episodes of a number of tasks that divides that of all.
        actor: of all tasks; its actions are computed where its parameters lie.
        units: of the policy's actions in the environment's.
        tasks: arrays [tasks, ...].
        horizon: most steps an episode can have.
        key, stage: name the streams of resets and action noise.
        first_task: the number of the first task among those of all processes.
        info: what `Step.info` of the simulations holds, and what the rollout has of it.

    Returns:
        A rollout on the device of the simulations.
    """
    sizes = [simulation.num_envs // episodes for simulation in simulations]
    number = count_tasks(tasks)
    assert number % sum(sizes) == 0, "a last round would lack tasks"

    def of_share(simulation: Simulation, share: slice) -> Rollout:
        indices = range(first_task + share.start, first_task + share.stop)
        own = select_tasks(tasks, share)
        part = actor.part(share)
        with own_stream(simulation.device):
            return _collect(
                simulation, part, units, own, indices, episodes, horizon, key, stage, info
            )

    rollouts: list[Rollout] = []
    for first in range(0, number, sum(sizes)):
        ends = itertools.accumulate(sizes, initial=first)
        shares = [slice(*bounds) for bounds in itertools.pairwise(ends)]
        rollouts += workers.map(of_share, simulations, shares)
    return _joined(rollouts)


class _Recording:
    """Buffers [time, tasks, episodes, ...] of what each step gives, made at the first step."""

    def __init__(self, horizon: int, counter: Tensor | None = None):
        """`counter` [1]: where to count the steps, so that a captured step counts when replayed."""
        self._horizon = horizon
        self._counter = counter
        self._t = 0
        self._buffers: dict[str, Tensor] = {}

    def now(self, values: Tensor) -> Tensor:
        """The values of this step: [time, ...] -> [...]."""
        if self._counter is None:
            return values[self._t]
        return values.index_select(0, self._counter).squeeze(0)

    def write(self, **values: Tensor) -> None:
        """Keeps the values of this step."""
        for name, value in values.items():
            if name not in self._buffers:
                self._buffers[name] = value.new_zeros((self._horizon, *value.shape))
            if self._counter is None:
                self._buffers[name][self._t] = value
            else:
                self._buffers[name].index_copy_(0, self._counter, value.unsqueeze(0))

    def end_step(self) -> None:
        """What follows is of the next step."""
        self._t += 1
        if self._counter is not None:
            self._counter += 1

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
    shape, device = (len(indices), episodes), simulation.device
    # Where all happens on a GPU, a step is captured once and replayed: the GPU waits for no Python.
    captures = device.type == actor.device.type != "cpu"
    noise = _noise(simulation, actor, key, indices, stage, horizon, episodes)
    streams = [seed for i in indices for seed in key.seeds(Use.RESET, i, stage, episodes)]
    repeated = {name: np.repeat(values, episodes, axis=0) for name, values in tasks.items()}
    units = units.to(device)

    def perceived(observations: Tensor) -> Tensor:
        # A copy, because the simulation may write its next observations over these. Images stay
        # bytes, a quarter of the memory.
        kept = torch.uint8 if observations.dtype == torch.uint8 else torch.float32
        x = observations.to(actor.device, kept, copy=True)
        return actor.perceive(x.reshape(*shape, -1))

    # Tensors that stay where they are, so that a captured step goes on from the one before it.
    x = perceived(simulation.begin(repeated, np.array(streams)))
    ended = torch.zeros(shape, dtype=torch.bool, device=device)
    counter = torch.zeros(1, dtype=torch.int64, device=device) if captures else None
    recording = _Recording(horizon, counter)

    def advance() -> tuple[type[Distribution], Step]:
        distribution, values = acted(actor, x)
        actions = distribution.sample(recording.now(noise))
        # An action that is not finite is found with the whole rollout, and never acted out.
        flat = actions.to(device).flatten(0, 1).nan_to_num(0.0, 0.0, 0.0)
        step = simulation.step(units.to_environment(flat))
        active, rewards = ~ended, step.rewards.reshape(shape)
        actor.remember(actions, rewards, active)
        parts = {f"part_{i}": part for i, part in enumerate(distribution)}
        recording.write(x=x, actions=actions, rewards=rewards, valid=active, **parts)
        if values is not None:
            recording.write(values=values)
        if step.success is not None:
            recording.write(success=active & step.success.reshape(shape))
        if step.info is not None:
            recording.write(info=step.info.reshape(*shape, -1))
        recording.end_step()
        ended.copy_((step.terminated | step.truncated).reshape(shape))
        x.copy_(perceived(step.observations))
        return type(distribution), step

    advanced = Replayed(advance, captures)
    for steps in range(1, horizon + 1):  # noqa: B007 (of which the rollout is)
        kind, last = advanced()
        # On a GPU, asking would wait for the step.
        if device.type == "cpu" and ended.all():
            break
    advanced.wait()
    rollout = _assembled(recording, kind, steps, last, x, info)
    if (finish := getattr(simulation, "finish", None)) is not None:
        finish()
    return rollout


def _noise(
    simulation: Simulation,
    actor: Actor,
    key: RandomKey,
    indices: range,
    stage: int,
    horizon: int,
    episodes: int,
) -> Tensor:
    """What actions are sampled with, where they are computed: [time, tasks, episodes, ...]."""
    if getattr(simulation, "counts_noise", False):
        words = [key.seeds(Use.ACTION, i, stage, episodes) for i in indices]
        streams = torch.from_numpy(np.array(words, np.uint64).view(np.int64)).to(actor.device)
        counted: Tensor = actor.noise(CountedNoise(streams), horizon, *streams.shape)
        expect_noise(actor, counted, horizon, *streams.shape)
        return counted.float()
    # Time first, so that a longer horizon begins with the same noise.
    drawn = [actor.noise(key.generator(Use.ACTION, i, stage), horizon, episodes) for i in indices]
    expect_noise(actor, drawn[0], horizon, episodes)
    return torch.from_numpy(np.stack(drawn, axis=1)).to(actor.device, torch.float32)


def _assembled(
    recording: _Recording,
    kind: type[Distribution],
    steps: int,
    last: Step,
    final: Tensor,
    info: Sequence[InfoMetric],
) -> Rollout:
    """The rollout of what was recorded."""
    mask, actions = recording.read("valid", steps), recording.read("actions", steps)
    device = mask.device
    number = sum(f"part_{i}" in recording for i in range(2))
    together = kind(*(recording.read(f"part_{i}", steps) for i in range(number)))
    values: Tensor | None = None
    if "values" in recording:
        values = _masked(recording.read("values", steps).to(device), mask)
    return Rollout(
        # An ended episode rests in its last state; what it shows and draws there is no experience.
        observations=_masked(recording.read("x", steps).to(device), mask),
        actions=_masked(actions.to(device), mask),
        log_probs=_masked(together.log_prob(actions).to(device), mask),
        rewards=_masked(recording.read("rewards", steps), mask),
        valid=mask,
        terminated=last.terminated.reshape(mask.shape[:2]).clone(),
        final_observations=final.to(device),
        unstable=int(last.failed.sum()),
        success=recording.read("success", steps).any(-1) if "success" in recording else None,
        values=values,
        info=per_episode(recording.read("info", steps), mask, info) if info else None,
    )


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """0 on padding, whatever was there."""
    padding = ~(mask.unsqueeze(-1) if values.dim() > mask.dim() else mask)
    return values.masked_fill(padding, 0)


def _joined(rollouts: list[Rollout]) -> Rollout:
    """The rollouts of several simulations as one, padded to the longest."""
    longest = max(rollout.valid.shape[2] for rollout in rollouts)
    return concatenated([rollout.padded(longest) for rollout in rollouts])
