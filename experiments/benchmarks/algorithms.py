"""Seconds of a meta-update for every named algorithm, at the sizes of half_cheetah_dir.py.

All algorithms are measured in one run. Ratios are to maml-trpo in the same round. The limit is 1.5:
generality must not make an estimator slower than its mathematics does.
"""

import statistics
from typing import Literal

import torch
import tyro

from metarl import Config, Learner
from metarl.learners.presets import ALGORITHMS

LIMIT = 1.5


def main(
    rounds: int = 3,
    family: str = "envs:HalfCheetahDir-v0",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int = 0,
) -> None:
    """Prints medians over the rounds, after one warm-up iteration of each algorithm."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ALGORITHMS}
    learners = {
        name: Learner(Config.of(name, family=family, device=device, threads=threads))
        for name in ALGORITHMS
    }
    for number in range(rounds + 1):
        for name, learner in learners.items():
            metrics = learner.iterate()
            if number:
                seconds[name].append((metrics["time/meta_update"], metrics["time/adaptation"]))
    some = learners["maml-trpo"]
    place = torch.cuda.get_device_name() if some.device.type == "cuda" else "cpu"
    print(f"{family} on {place}, {some.workers.threads} threads, medians of {rounds} rounds")
    print("algorithm     meta-update   adaptation   ratio to maml-trpo")
    for name, rows in seconds.items():
        update, adaptation = (statistics.median(column) for column in zip(*rows, strict=True))
        ratios = [a / b for (a, _), (b, _) in zip(rows, seconds["maml-trpo"], strict=True)]
        print(f"{name:12s} {update:9.3f} s {adaptation:10.3f} s {statistics.median(ratios):12.2f}")
    print(f"limit: at most {LIMIT} for each")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
