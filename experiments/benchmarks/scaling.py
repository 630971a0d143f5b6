"""A model of an iteration on many hosts: its measured inputs, and the efficiency it expects.

With n processes and M tasks an iteration takes

    T(n) = fixed + task · share + (n − 1) · (collectives · step + bytes / bandwidth)

`fixed` is what every process computes for itself, `task` the work on one task with both cores of a
host, `share` the tasks of the process that has most, and `bytes` what a process sends: gloo passes
each message round the ring of processes, in n − 1 steps. The efficiency is T(1) / (n · T(n)).
"""

import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import tyro

from metarl import Config, Learner
from metarl.support.parallel import chunk_size
from metarl.support.ranks import is_leader

HOSTS = (8, 64, 256)
TASKS = (40, 512, 4096)
BANDWIDTH = 10e9 / 8
"""Bytes per second of 10-gigabit Ethernet."""
LIMIT = 0.9


@dataclass(frozen=True)
class Inputs:
    """What is measured, of HalfCheetahDir with 20 episodes of 100 steps for each task."""

    fixed: float
    """Seconds of an iteration that do not depend on the number of tasks."""
    task: float
    """Seconds for each task, on a host of two cores."""
    collectives: int
    """Messages that each process sends in an iteration."""
    bytes_fixed: float
    """Bytes that a process sends in an iteration, without those for each task."""
    bytes_task: float
    """Bytes for each task of its share: the returns and lengths of its episodes."""
    step: float
    """Seconds in which one message of a collective passes from a process to the next."""

    def seconds(self, tasks: int, hosts: int) -> float:
        """Seconds of an iteration."""
        share = largest_share(tasks, hosts)
        ring = self.collectives * self.step
        wire = (self.bytes_fixed + self.bytes_task * share) / BANDWIDTH
        return self.fixed + self.task * share + (hosts - 1) * (ring + wire)

    def after_messages(self, tasks: int, latency: float) -> float:
        """What the messages alone leave of the speed of two hosts, `latency` seconds apart."""
        alone = self.seconds(tasks, 1)
        return alone / (alone + self.collectives * (self.step + latency))

    def efficiency(self, tasks: int, hosts: int) -> float:
        """The speed of many hosts over that many times the speed of one."""
        return self.seconds(tasks, 1) / (hosts * self.seconds(tasks, hosts))


def chunk_of(tasks: int) -> int:
    """Tasks that are computed together."""
    return chunk_size(tasks, 20 * 100)


def largest_share(tasks: int, hosts: int) -> int:
    """Tasks of the host that has the most: whole chunks."""
    chunk = chunk_of(tasks)
    return min(tasks, chunk * math.ceil(math.ceil(tasks / chunk) / hosts))


def table(inputs: Inputs) -> str:
    """The expected efficiency, as Markdown: a row for each number of tasks."""
    lines = [
        "| Tasks | " + " | ".join(f"{hosts} hosts" for hosts in HOSTS) + " |",
        "|---" * (1 + len(HOSTS)) + "|",
    ]
    for tasks in TASKS:
        most = math.ceil(tasks / chunk_of(tasks))
        cells = [
            f"{inputs.efficiency(tasks, hosts):.0%}" if hosts <= most else f"at most {most}"
            for hosts in HOSTS
        ]
        lines.append(f"| {tasks:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(path: Path, tasks: tuple[int, int], episodes: int, rounds: int) -> None:
    """Measures the inputs on this machine, and writes them as JSON."""
    small, large = _alone(tasks, episodes, rounds)
    task = (large - small) / (tasks[1] - tasks[0])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    sent = []
    for number in tasks:
        options = ["--collectives", str(number), "--episodes", str(episodes)]
        sent.append(json.loads(_output([*torchrun, "2", __file__, *options])))
    bytes_task = 2 * (sent[1]["bytes"] - sent[0]["bytes"]) / (tasks[1] - tasks[0])
    inputs = Inputs(
        fixed=small - task * tasks[0],
        task=task,
        collectives=sent[0]["collectives"],
        bytes_fixed=sent[0]["bytes"] - bytes_task * tasks[0] / 2,
        bytes_task=bytes_task,
        step=statistics.median(s["step"] for s in sent),
    )
    path.write_text(json.dumps(asdict(inputs), indent=2) + "\n")


def _alone(tasks: tuple[int, int], episodes: int, rounds: int) -> list[float]:
    """Median seconds of an iteration in one process, of both numbers of tasks in turn."""
    learners = [_learner(number, episodes) for number in tasks]
    seconds = [[learner.iterate()["time/whole"] for learner in learners] for _ in range(rounds + 1)]
    return [statistics.median(times[1:]) for times in zip(*seconds, strict=True)]


def _learner(tasks: int, episodes: int) -> Learner:
    return Learner(
        Config(family="envs:HalfCheetahDir-v0", meta_batch_size=tasks, episodes=episodes)
    )


def count_collectives(tasks: int, episodes: int) -> dict[str, float]:
    """In a process of torchrun: what it sends in an iteration, and the seconds of a step."""
    learner = _learner(tasks, episodes)
    sizes: list[int] = []
    plain = dist.all_gather

    def counted(rows: list[torch.Tensor], message: torch.Tensor, *rest: Any, **names: Any) -> Any:
        sizes.append(message.numel() * message.element_size())
        return plain(rows, message, *rest, **names)

    with (
        mock.patch.object(dist, "all_gather", counted),
        mock.patch.object(dist.distributed_c10d, "all_gather", counted),
    ):
        list(learner.learn(1))
    message = torch.zeros(sum(sizes) // len(sizes) // 8, dtype=torch.float64)
    rows = [torch.empty_like(message) for _ in range(dist.get_world_size())]
    seconds = []
    for _ in range(200):
        start = time.perf_counter()
        plain(rows, message)
        seconds.append(time.perf_counter() - start)
    step = statistics.median(seconds) / (len(rows) - 1)
    return {"collectives": len(sizes), "bytes": sum(sizes), "step": step}


def _output(arguments: list[str]) -> str:
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return result.stdout


def main(
    inputs: Path = Path(__file__).parent / "results" / "scaling.json",
    measure_tasks: tuple[int, int] | None = None,
    episodes: int = 20,
    rounds: int = 9,
    collectives: int | None = None,
) -> None:
    """Prints the expected efficiency.

    Args:
        inputs: the measured inputs, as JSON.
        measure_tasks: measure the inputs first, with these two numbers of tasks.
        episodes: of each task in the measurements.
        rounds: iterations that are measured, after one to warm up.
        collectives: used by the measurement itself, under torchrun: print what is sent in an
            iteration of so many tasks.

    """
    if collectives is not None:
        sent = count_collectives(collectives, episodes)
        if is_leader():
            print(json.dumps(sent))
        return
    if measure_tasks is not None:
        measure(inputs, measure_tasks, episodes, rounds)
    measured = Inputs(**json.loads(inputs.read_text()))
    print(measured)
    print(table(measured))
    print(f"limit: efficiency of at least {LIMIT} with 2 processes; expected ", end="")
    print(f"{measured.efficiency(40, 2):.3f} at 40 tasks")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
