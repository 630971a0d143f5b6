"""Environment steps per second of every declared family, beside those of its bare simulation.

One run measures `collect` as training calls it (policy, noise, rewards, recording), the same
simulation when it replays the same actions without a policy (the bare MuJoCo batch, or the array
functions of the family), and Gymnasium's SyncVectorEnv of single environments with the same policy.
None of them steps episodes that have ended. The limit for MuJoCo families is 90 % of the bare batch
as MuJoCo's package steps it. The last column is the ratio to a batch without the clock of that
package, which training does without, too.
"""

import statistics
import time

import gymnasium
import numpy as np
import torch
import tyro
from sampling import LIMIT, measure

from metarl.policies.parameters import expand
from metarl.simulation.backends import backend_name
from metarl.support.parallel import Workers
from metarl.tasks.declaration import MujocoFamily
from metarl.tasks.family import TaskFamily, make_family, task_environment
from metarl.tasks.registry import registered_families
from metarl.tasks.task import Tasks

SYNC = 16


def main(
    families: tuple[str, ...] = (),
    tasks: int = 40,
    episodes: int = 20,
    seconds: float = 40.0,
    horizon: int = 50,
    threads: int = 0,
) -> None:
    """Prints a line for each of the families, or for all declared families.

    Each family is measured in rounds for `seconds`; the ratio is the median of the rounds, with
    quartiles. Episodes end at `horizon` to limit the time of slow families; later steps take just
    as long.
    """
    workers = Workers(threads)
    print(
        f"{tasks} x {episodes} episodes of at most {horizon} steps, {workers.threads} threads, "
        f"medians of the rounds within {seconds:g} s"
    )
    print(
        f"{'family':22s} {'collect':>11s} {'open loop':>11s} {'ratio':>6s} {'quartiles':>13s} "
        f"{'rounds':>6s}  SyncVectorEnv({SYNC})  no clock"
    )
    worst = 1.0
    for name in families or tuple(f"envs:{name}" for name in registered_families()):
        family = make_family(name, min(horizon, make_family(name).horizon))
        if backend_name(family) != "batch":
            continue
        ratio = line(family, tasks, episodes, seconds, workers)
        if isinstance(family.declaration, MujocoFamily):
            worst = min(worst, ratio)
    print(f"smallest ratio of a MuJoCo family: {worst:.3f}; limit: at least {LIMIT}")


def line(family: TaskFamily, tasks: int, episodes: int, seconds: float, workers: Workers) -> float:
    """Measures and prints one family, and returns its ratio to the open loop."""
    policy, parameters, drawn, rounds = measure(family, tasks, episodes, seconds, workers)
    limit, own, _ = (statistics.median(column) for column in zip(*rounds, strict=True))
    low, ratio, high = statistics.quantiles(b / a for a, b, _ in rounds)
    clockless = statistics.median(b / c for _, b, c in rounds)
    sync = sync_speed(family, policy, parameters, {n: v[:1] for n, v in drawn.items()})
    print(
        f"{family.id.split(':')[1]:22s} {own:11,.0f} {limit:11,.0f} {ratio:6.3f} "
        f"[{low:.3f}, {high:.3f}] {len(rounds):6d} {sync:18,.0f} {clockless:9.3f}",
        flush=True,
    )
    return ratio


def sync_speed(family: TaskFamily, policy, parameters, task: Tasks, seconds: float = 1.5) -> float:
    """Steps per second of Gymnasium's SyncVectorEnv."""
    envs = gymnasium.vector.SyncVectorEnv([family.make] * SYNC)
    for env in envs.envs:
        task_environment(env).task = {name: values[0] for name, values in task.items()}
    one = expand(parameters, 1)
    observations, _ = envs.reset(seed=0)
    shape = (1, SYNC, gymnasium.spaces.flatdim(envs.single_action_space))
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
