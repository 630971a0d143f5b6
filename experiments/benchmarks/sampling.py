"""Environment steps per second with the policy in the loop, beside those of the bare physics.

One run measures, for the same trajectories, `collect` as training calls it (policy, noise, rewards,
recording), the bare MuJoCo batch when it replays the same controls from the same states, and
Gymnasium's vector environments with the same policy. The limit is 90 % of the bare batch as
MuJoCo's package steps it. The ratio to a batch without the clock of that package, which training
does without, is printed beside it.
"""

import statistics
import time
from collections.abc import Callable

import gymnasium
import mujoco
import mujoco.batch
import numpy as np
import torch
import tyro

from metarl.policies.action_units import ActionUnits
from metarl.policies.parameters import expand
from metarl.policies.policy import make_policy
from metarl.sampling.actor import PolicyActor
from metarl.sampling.data import Rollout
from metarl.sampling.rollout import collect
from metarl.simulation.backends import make_simulation, make_simulations
from metarl.simulation.declared import DeclaredSimulation
from metarl.simulation.mujoco import BatchPhysics, stop_clock
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey, Use
from metarl.tasks.declaration import MujocoFamily
from metarl.tasks.family import TaskFamily, make_family
from metarl.tasks.task import Tasks

LIMIT = 0.9
LEAST_ROUNDS = 5


def main(
    family: str = "envs:HalfCheetahDir-v0",
    tasks: int = 40,
    episodes: int = 20,
    seconds: float = 60.0,
    threads: int = 0,
) -> None:
    """Measures for `seconds` and prints a table of speeds and the ratios to the bare batches."""
    workers = Workers(threads)  # as in training: one core for each torch operation
    made = make_family(family)
    policy, parameters, _, rounds = measure(made, tasks, episodes, seconds, workers)
    limit, own, clockless = (list(column) for column in zip(*rounds, strict=True))
    speeds = {
        "bare batch, open loop": limit,
        "bare batch without the package's clock": clockless,
        "collect, policy in the loop": own,
    }
    for name, mode, number in (
        ("SyncVectorEnv(16)", "sync", 16),
        ("AsyncVectorEnv(8)", "async", 8),
    ):
        speeds[f"Gymnasium {name}, policy in the loop"] = [
            gymnasium_speed(mode, number, policy, parameters) for _ in range(2)
        ]

    print(f"{family}, {tasks} x {episodes} episodes of {made.horizon}, {workers.threads} threads")
    for name, values in speeds.items():
        print(
            f"{name:46s} {statistics.median(values):9,.0f} steps/s"
            f"  ({min(values):,.0f} to {max(values):,.0f})"
        )
    ratios, stricter = ([b / a for a, b in zip(c, own, strict=True)] for c in (limit, clockless))
    print(
        f"ratio to the bare batch, median of {len(rounds)} rounds: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}); limit: at least {LIMIT}; to the one without "
        f"clock {statistics.median(stricter):.3f}"
    )


def measure(family: TaskFamily, tasks: int, episodes: int, seconds: float, workers: Workers):
    """A policy, its parameters, the tasks, and rounds of steps per second.

    A round measures the open loop as MuJoCo's package steps it, `collect`, and the open loop
    without the clock of the package. Rounds alternate between them because the speed of a shared
    host drifts. There are at least 5 rounds, and more within `seconds`.
    """
    simulations = make_simulations(family, tasks, episodes, workers.threads)
    simulation = make_simulation(family, tasks * episodes, workers.threads)
    assert isinstance(simulation, DeclaredSimulation)
    policy = make_policy(simulation.observation_space, simulation.action_space)
    units = ActionUnits.of(simulation.action_space, family.action_scale)
    key = RandomKey(1)
    parameters = policy.initial_parameters(key.generator(Use.PARAMETERS))
    drawn = family.sample_tasks(tasks, key)

    def ours() -> Rollout:
        actor = PolicyActor(policy, expand(parameters, tasks))
        return collect(simulations, actor, units, drawn, episodes, family.horizon, key, 0, workers)

    rollout = ours()
    open_loop = bare_batch if isinstance(family.declaration, MujocoFamily) else bare_arrays
    replay = open_loop(simulation, rollout, drawn, key, workers.threads)
    replay()
    steps = rollout.env_steps
    rounds: list[tuple[float, float, float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < LEAST_ROUNDS or time.perf_counter() < end:
        mujoco.set_mjcb_time(None)
        limit = timed(replay)
        stop_clock()
        rounds.append((steps / limit, steps / timed(ours), steps / timed(replay)))
    return policy, parameters, drawn, rounds


def begin(simulation: DeclaredSimulation, rollout: Rollout, tasks: Tasks, key: RandomKey):
    """Begins as the rollout did; for each step, the ids of active episodes, and the actions."""
    number, episodes = rollout.returns.shape
    streams = [s for i in range(number) for s in key.seeds(Use.RESET, i, 0, episodes)]
    of_each = {name: np.repeat(v, episodes, axis=0) for name, v in tasks.items()}
    simulation.begin(of_each, np.array(streams))
    actions = rollout.actions.flatten(0, 1).transpose(0, 1).contiguous()
    active = rollout.valid.flatten(0, 1).T.numpy()
    return [
        (None if on.all() else np.flatnonzero(on), a) for on, a in zip(active, actions, strict=True)
    ]


def bare_batch(
    simulation: DeclaredSimulation,
    rollout: Rollout,
    tasks: Tasks,
    key: RandomKey,
    threads: int,
) -> Callable[[], None]:
    """Replays the controls of the rollout on a batch that does nothing else."""
    physics = simulation.physics
    assert isinstance(physics, BatchPhysics)
    steps = [
        (ids, np.ascontiguousarray(physics.control(a.numpy())))
        for ids, a in begin(simulation, rollout, tasks, key)
    ]
    start = physics.state()
    batch = mujoco.batch.Batch(physics.model, simulation.num_envs, threads)
    for name, values in physics.model_fields.items():
        batch.expand(name)[:] = values
        batch.set_const()
    qpos, qvel, ctrl = batch.bind("qpos"), batch.bind("qvel"), batch.bind("ctrl")

    def replay() -> None:
        batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
        qpos[:], qvel[:] = start.qpos, start.qvel
        batch.forward()
        for ids, control in steps:
            ctrl[:] = control
            batch.step(ids, nstep=physics.substeps)

    return replay


def bare_arrays(
    simulation: DeclaredSimulation,
    rollout: Rollout,
    tasks: Tasks,
    key: RandomKey,
    threads: int,
) -> Callable[[], None]:
    """Replays the rollout's actions on the simulation of a family with dynamics of its own."""

    def replay() -> None:
        for _, actions in begin(simulation, rollout, tasks, key):
            simulation.step(actions)

    return replay


def gymnasium_speed(mode: str, number: int, policy, parameters, steps: int = 400) -> float:
    """Steps per second of HalfCheetah-v5 in one of Gymnasium's vector environments."""
    envs = gymnasium.make_vec("HalfCheetah-v5", number, vectorization_mode=mode)
    one = expand(parameters, 1)
    noise = torch.randn(steps, 1, number, 6)
    observations, _ = envs.reset(seed=0)
    start = time.perf_counter()
    with torch.no_grad():
        for t in range(steps):
            x = torch.from_numpy(observations).float().unsqueeze(0)
            actions = policy.distribution(one, x).sample(noise[t])[0].numpy()
            observations, *_ = envs.step(np.clip(actions / 10, -1, 1))
    seconds = time.perf_counter() - start
    envs.close()
    return number * steps / seconds


def timed(function: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
