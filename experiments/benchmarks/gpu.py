"""Environment steps per second with physics on a GPU, beside MuJoCo's batch on all cores.

It is made for a short lease of a machine: kernels of all families are compiled in parallel first,
every measurement is appended to a file as soon as it is there, and what no time is left for is left
out and named. Each measurement is of whole meta-iterations of MAML-TRPO, after one that compiles
and reserves memory:

- sampling and end-to-end steps per second, and seconds of each part;
- for the GPU, kernels of a step and their time in physics (warp) and in the rest (torch), from
  torch's profiler, and the memory in use.

Then it trains HalfCheetahDir to a return of 200 and writes the curve in seconds. On a machine
without a GPU it measures warp's CPU device, which is to try the script.
"""

import dataclasses
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import tyro

from metarl import Config, Learner
from metarl.sampling.rollout import collect
from metarl.support import graphs
from metarl.support.parallel import available_cores
from metarl.support.randomness import Phase, RandomKey

FAMILIES = ("HalfCheetahDir", "HumanoidDir", "AntDir", "Walker2dParams")
TARGET = 1_000_000
"""Steps per second end to end on HalfCheetahDir; on HumanoidDir ten times the batch."""
WARP_KERNEL = "_cuda_kernel_forward"
"""How the names of warp's kernels end."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    families: tuple[str, ...] = FAMILIES
    worlds: tuple[int, ...] = (800, 8_000, 32_000)
    """Environments at once, of 40 tasks."""
    tasks: int = 40
    horizon: int = 100
    """Of the first family; the others, which are slower, have `short_horizon`."""
    short_horizon: int = 25
    rounds: int = 2
    """Meta-iterations of a measurement of the first family, after one that is not measured; the
    others have one."""
    batch_worlds: int = 800
    """Environments of the batch that it is compared with."""
    curve_episodes: tuple[int, ...] = (400, 20)
    """Episodes of each task in the training curves; none if empty."""
    curve_seconds: float = 100.0
    """Of a training curve at most."""
    goal: float = 200.0
    """Return after adaptation at which a training curve ends."""
    budget: float = 570.0
    """Seconds after which nothing more is begun."""
    deterministic: bool = False
    """Whether to measure the first family again with --warp-deterministic."""
    capture: bool = True
    """Whether what torch does in a step is captured and replayed; the physics always are."""
    threads: int = 0
    """Of the batch; 0 for all cores."""
    results: Path = Path("gpu.jsonl")
    """Where lines are appended."""


def main(options: Options) -> None:
    """Measures all that there is time for."""
    begin = time.perf_counter()
    if not options.capture:
        graphs.WARM_UPS = sys.maxsize
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "warp's CPU device"
    write(options, {"machine": device, "cores": available_cores(), "torch": torch.__version__})
    if torch.cuda.is_available():
        compile_all(options)
        write(options, {"compiled": sorted(options.families), "seconds": since(begin)})
    for name, measure in measurements(options):
        if since(begin) > options.budget:
            write(options, {"left out, as no time was left": name})
            continue
        try:
            for line in measure:
                write(options, {"measured": name, "at": since(begin), **line})
        except Exception as error:  # the other measurements are worth having
            write(options, {"measured": name, "failed": f"{type(error).__name__}: {error}"[:500]})
        gc.collect()
        torch.cuda.empty_cache()
    print(f"limit: at least {TARGET:,} steps/s end to end on HalfCheetahDir at a size of choice")


def measurements(options: Options) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """The measurements by name, the most important ones first."""
    first, *_ = options.families
    for family in options.families:
        batch = config(options, family, options.batch_worlds, simulation="batch")
        yield f"{family} batch", iterations(options, batch)
        for worlds in options.worlds:
            yield f"{family} warp {worlds}", iterations(options, config(options, family, worlds))
        if family == first:
            for episodes in options.curve_episodes:
                yield f"{family} curve {episodes}", curve(options, family, episodes)
    if options.deterministic:
        fixed = config(options, first, max(options.worlds), warp_deterministic=True)
        yield f"{first} deterministic", iterations(options, fixed)


def config(options: Options, family: str, worlds: int, simulation: str = "warp", **more: Any):
    """A run of MAML-TRPO with so many environments."""
    return Config(
        f"envs:{family}-v0",
        simulation=simulation,
        meta_batch_size=options.tasks,
        episodes=worlds // options.tasks,
        horizon=options.horizon if family == options.families[0] else options.short_horizon,
        threads=options.threads,
        **more,
    )


def iterations(options: Options, run: Config) -> Iterator[dict[str, Any]]:
    """Steps per second and seconds of the parts, the means of some meta-iterations."""
    learner = Learner(run)
    begin = time.perf_counter()
    learner.iterate()
    first, rows = since(begin), []
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    for _ in range(options.rounds if run.horizon == options.horizon else 1):
        before = learner.env_steps
        metrics = learner.iterate()
        parts = {k: v for k, v in metrics.items() if k.startswith("time/")}
        rows.append({"steps": learner.env_steps - before, **parts})
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    steps = mean.pop("steps")
    yield {
        "worlds": run.environments,
        "steps": steps,
        "first iteration, s": round(first, 2),
        "sampling steps/s": round(steps / mean["time/sampling"]),
        "end to end steps/s": round(steps / mean["time/whole"]),
        **{f"{name[5:]}, s": round(seconds, 4) for name, seconds in mean.items()},
        **(memory() if torch.cuda.is_available() else {}),
        **(profile(learner) if learner.simulation_device.type == "cuda" else {}),
    }
    learner.close()


def memory() -> dict[str, Any]:
    """GB in use: the most that torch has had, and all of the GPU's."""
    free, total = torch.cuda.mem_get_info()
    return {
        "torch, GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "GPU, GB": round((total - free) / 1e9, 2),
    }


def profile(learner: Any) -> dict[str, Any]:
    """Kernels of an environment step, and milliseconds of them in physics and in the rest."""
    key, steps = RandomKey(1, Phase.EVALUATION), 12
    number = learner.config.meta_batch_size
    tasks = learner.family.sample_tasks(number, key)
    simulations, actor = learner._simulations_of(number), learner.begin(tasks).actor()
    cuda = torch.profiler.ProfilerActivity.CUDA
    begin = time.perf_counter()
    with torch.profiler.profile(activities=[cuda], acc_events=True) as profiler:
        collect(
            *(simulations, actor, learner.units, tasks, learner.episodes, steps, key, 0),
            learner.workers,
        )
    wall = since(begin)
    kernels = [e for e in profiler.events() if e.device_type.name == "CUDA"]
    physics = [e for e in kernels if e.name.endswith(WARP_KERNEL)]
    of_physics = sum(e.device_time_total for e in physics)
    whole = sum(e.device_time_total for e in kernels)
    return {
        "kernels per step": round(len(kernels) / steps, 1),
        "of warp": round(len(physics) / steps, 1),
        "physics per step, ms": round(of_physics / steps / 1e3, 4),
        "torch per step, ms": round((whole - of_physics) / steps / 1e3, 4),
        "wall per step under the profiler, ms": round(1e3 * wall / steps, 4),
    }


def curve(options: Options, family: str, episodes: int) -> Iterator[dict[str, Any]]:
    """Trains to the goal; a line for each iteration."""
    learner = Learner(config(options, family, options.tasks * episodes))
    begin = time.perf_counter()
    while since(begin) < options.curve_seconds:
        metrics = learner.iterate()
        yield {
            "iteration": learner.iteration,
            "seconds": round(since(begin), 2),
            "steps": learner.env_steps,
            "before": round(metrics["return/before"], 2),
            "after": round(metrics["return/after"], 2),
        }
        if metrics["return/after"] >= options.goal:
            break
    learner.close()


def compile_all(options: Options) -> None:
    """Fills warp's cache for all families, each in a process of its own: compilers use one core."""
    code = (
        "import sys, metarl; "
        "c = metarl.Config(sys.argv[1], simulation='warp', meta_batch_size=2, "
        "episodes=int(sys.argv[2]), horizon=4, warp_deterministic=sys.argv[3] == 'True'); "
        "metarl.Learner(c).iterate()"
    )
    wanted = [(family, False) for family in options.families]
    if options.deterministic:
        wanted.append((options.families[0], True))
    episodes = min(options.worlds) // options.tasks
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"envs:{family}-v0", str(episodes), str(fixed)]
        )
        for family, fixed in wanted
    ]
    for (family, _), process in zip(wanted, running, strict=True):
        if process.wait():
            write(options, {"compiled": family, "failed": process.returncode})


def write(options: Options, line: dict[str, Any]) -> None:
    """Prints the line, and appends it to the file."""
    text = json.dumps(line)
    print(text, flush=True)
    with options.results.open("a") as file:
        file.write(text + "\n")


def since(begin: float) -> float:
    """Seconds."""
    return time.perf_counter() - begin


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
