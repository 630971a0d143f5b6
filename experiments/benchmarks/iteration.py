"""Seconds of a meta-iteration and of its parts, at the sizes of half_cheetah_dir.py.

The limit is 40 thousand environment steps per second, over the whole iteration, on two cores. The
published runs of RLlib have 24 thousand with 31 workers and a GPU.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch
import tyro

from metarl import Config, Learner
from metarl.runs.folder import RunFolder
from metarl.support.ranks import is_leader

LIMIT = 40_000


def main(
    iterations: int = 10,
    warmup: int = 2,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    sampling_device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 0,
    family: str = "envs:HalfCheetahDir-v0",
) -> None:
    """Prints medians over the iterations after the warm-up."""
    learner = Learner(
        Config(family=family, device=device, sampling_device=sampling_device, threads=threads)
    )
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(Path(path))
        folder.open({"config": {}}, 0, learner.measure, learner.test_steps)
        for metrics in learner.learn(warmup + iterations):
            start = time.perf_counter()
            folder.write(metrics)
            folder.save(learner.iteration, learner.state())
            record = time.perf_counter() - start
            seconds = {k[5:]: v for k, v in metrics.items() if k.startswith("time/")}
            rows.append(seconds | {"record": record, "whole": metrics["time/whole"] + record})
        folder.close()
    steps = learner.env_steps / learner.iteration
    if not is_leader():  # of several processes of torchrun, one prints
        return
    rows = rows[warmup:]
    name = torch.cuda.get_device_name() if learner.device.type == "cuda" else "cpu"
    print(
        f"{family}: {steps:,.0f} environment steps an iteration, learner on {name}, policy on "
        f"{sampling_device}, {learner.workers.threads} threads, {iterations} iterations"
    )
    for part in ("sampling", "adaptation", "meta_update", "record", "whole"):
        values = [row[part] for row in rows]
        print(
            f"{part:12s} {statistics.median(values):7.3f} s  "
            f"({min(values):.3f} to {max(values):.3f})"
        )
    speed = steps / statistics.median(row["whole"] for row in rows)
    print(f"end to end   {speed:,.0f} steps/s; limit: at least {LIMIT:,} on two cores")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
