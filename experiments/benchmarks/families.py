"""Environment steps per second of every declared family, beside what its simulation allows.

All in one run: `collect` as training calls it (policy, noise, rewards, recording), the same
simulation replaying the same actions without a policy (the bare MuJoCo batch, or the family's own
arrays), and Gymnasium's SyncVectorEnv of single environments with the same policy. Ended episodes
are stepped nowhere. MuJoCo families are held against 90 % of the bare batch.
"""

import statistics
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
import tyro
from sampling import LIMIT, bare_batch, begin, timed

from metarl.parallel import Workers
from metarl.policy import expand, make_policy
from metarl.randomness import RandomKey, Use
from metarl.rollout import Rollout, collect
from metarl.simulation.gymnasium import backend_name, make_simulation, make_simulations
from metarl.tasks import TaskFamily, Tasks, make_family, registered_families

SYNC = 16


def main(
    families: tuple[str, ...] = (),
    tasks: int = 40,
    episodes: int = 20,
    repeats: int = 3,
    threads: int = 0,
) -> None:
    """Prints a line for each family: all that are declared, if none is named."""
    workers = Workers(threads)
    print(f"{tasks} x {episodes} episodes, {workers.threads} threads, medians of {repeats} pairs")
    print(
        f"{'family':22s} {'collect':>11s} {'open loop':>11s} {'ratio':>6s}  SyncVectorEnv({SYNC})"
    )
    worst = 1.0
    for name in families or tuple(f"envs:{name}" for name in registered_families()):
        family = make_family(name)
        if backend_name(family) not in ("batch", "arrays"):
            continue
        ratio = line(family, tasks, episodes, repeats, workers)
        if backend_name(family) == "batch":
            worst = min(worst, ratio)
    print(f"least ratio of a MuJoCo family: {worst:.3f}; limit: at least {LIMIT}")


def line(family: TaskFamily, tasks: int, episodes: int, repeats: int, workers: Workers) -> float:
    """Measures and prints one family; its ratio to the open loop."""
    simulations = make_simulations(family, tasks, episodes, workers.threads)
    simulation = make_simulation(family, tasks * episodes, workers.threads)
    policy = make_policy(simulation.single_observation_space, simulation.single_action_space)
    key = RandomKey(1)
    parameters = policy.initial_parameters(key.generator(Use.PARAMETERS))
    drawn = family.sample_tasks(tasks, key)

    def ours() -> Rollout:
        together = expand(parameters, tasks)
        return collect(
            simulations, policy, together, drawn, episodes, family.horizon, key, 0, workers
        )

    rollout = ours()
    if backend_name(family) == "batch":
        replay = bare_batch(simulation, rollout, drawn, key, workers.threads)
    else:
        replay = arrays(simulation, rollout, drawn, key)
    replay()
    pairs = [
        (rollout.env_steps / timed(replay), rollout.env_steps / timed(ours)) for _ in range(repeats)
    ]
    limit, own = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    sync = sync_speed(family, policy, parameters, {n: v[:1] for n, v in drawn.items()})
    print(
        f"{family.id.split(':')[1]:22s} {own:11,.0f} {limit:11,.0f} {ratio:6.3f} {sync:11,.0f}",
        flush=True,
    )
    return ratio


def arrays(
    simulation: gymnasium.vector.VectorEnv, rollout: Rollout, tasks: Tasks, key: RandomKey
) -> Callable[[], None]:
    """Replays the rollout's actions on the vector environment of a family with own dynamics."""

    def replay() -> None:
        for _, actions in begin(simulation, rollout, tasks, key):
            simulation.step(actions)

    return replay


def sync_speed(family: TaskFamily, policy, parameters, task: Tasks, seconds: float = 1.5) -> float:
    """Steps per second of Gymnasium's vector environment over single ones."""
    envs = gymnasium.vector.SyncVectorEnv([family.make] * SYNC)
    for env in envs.envs:
        env.unwrapped.task = {name: values[0] for name, values in task.items()}
    one = expand(parameters, 1)
    observations, _ = envs.reset(seed=0)
    shape = (1, SYNC, *(envs.single_action_space.shape or (envs.single_action_space.n,)))
    generator = np.random.default_rng(0)
    steps, start = 0, time.perf_counter()
    with torch.no_grad():
        while time.perf_counter() - start < seconds:
            x = torch.from_numpy(observations).float().unsqueeze(0)
            noise = torch.from_numpy(generator.standard_normal(shape, np.float32))
            actions = policy.distribution(one, x).sample(noise)[0].numpy()
            observations, *_ = envs.step(actions)
            steps += SYNC
    speed = steps / (time.perf_counter() - start)
    envs.close()
    return speed


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
