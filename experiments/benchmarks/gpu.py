"""Environment steps per second with physics on a GPU, beside MuJoCo's batch on all cores.

It is made for a short lease of a machine. The most important measurements come first, small ones
before large ones, and every line is appended to a file as soon as it is there. A measurement that
fails or hangs is named, and the others follow in a new process; what no time is left for is named
too. Kernels of all families are compiled in parallel at the beginning.

Each measurement is of whole meta-iterations of MAML-TRPO, after one that compiles and reserves
memory. Its lines are:

- sampling and end-to-end steps per second, seconds of each part, the memory in use, and returns
  before and after adaptation, which in the first iteration are alike on both simulators;
- for the GPU, from torch's profiler, kernels of an environment step and their time in physics
  (warp) and in the rest (torch), by the difference of two rollouts; and kernels of a meta-update,
  their time, and that on the clock.

Then it trains HalfCheetahDir to a return of 200 and writes the curve in seconds. On a machine
without a GPU it measures warp's CPU device, which is to try the script.
"""

import dataclasses
import functools
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import tyro
from supervised import Line, lines

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
    """Seconds after which nothing more is begun; what runs then is ended 20 seconds later."""
    compiling: float = 200.0
    """Seconds after which kernels that are not compiled yet are left to the measurements."""
    silence: float = 150.0
    """Seconds without a line after which a measurement is ended."""
    deterministic: bool = True
    """Whether to measure the first family again with --warp-deterministic."""
    capture: bool = True
    """Whether what torch does in a step is captured and replayed; the physics always are."""
    threads: int = 0
    """Of the batch; 0 for all cores."""
    results: Path = Path("gpu.jsonl")
    """Where lines are appended."""


def main(options: Options) -> None:
    """Measures all that there is time for."""
    begin = time.time()
    gpu = torch.cuda.is_available()  # which this process leaves to those that measure
    write(options, {"gpu": gpu, "cores": available_cores(), "torch": torch.__version__})
    # All of them before the first measurement, beside which nothing else must run.
    for compiled, process in start_compilers(options) if gpu else []:
        code = exit_code(process, begin + options.compiling - time.time())
        write(options, {"compiled": compiled, "exit code": code, "at": since(begin)})
    for names in stages(options):
        measure = functools.partial(measured, options)
        for name, line in lines(measure, names, begin + options.budget, options.silence):
            write(options, {"measured": name, "at": since(begin), **line})
    print(f"limit: at least {TARGET:,} steps/s end to end on HalfCheetahDir at a size of choice")


def stages(options: Options) -> tuple[list[str], list[str]]:
    """The names of the measurements of the first family, and of what can wait."""

    def of(family: str) -> list[str]:
        sizes = [f"{family} warp {worlds}" for worlds in options.worlds]
        return [*sizes, f"{family} batch {options.batch_worlds}"]

    first, *others = options.families
    curves = [f"{first} curve {episodes}" for episodes in options.curve_episodes]
    rest = [name for family in others for name in of(family)]
    if options.deterministic:
        rest.append(f"{first} deterministic {options.worlds[-1]}")
    return of(first) + curves[:1], rest + curves[1:]


def measured(options: Options, name: str) -> Iterator[Line]:
    """The lines of the measurement of that name, such as "AntDir warp 800"."""
    gc.collect()  # what the measurement before has left
    torch.cuda.empty_cache()
    if not options.capture:
        graphs.WARM_UPS = sys.maxsize
    family, kind, size = name.split()
    if kind == "curve":
        yield from curve(options, config(options, family, options.tasks * int(size)))
        return
    more = {"simulation": "batch"} if kind == "batch" else {}
    yield from iterations(
        options,
        config(options, family, int(size), warp_deterministic=kind == "deterministic", **more),
    )


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


def iterations(options: Options, run: Config) -> Iterator[Line]:
    """Steps per second and seconds of the parts, the means of some meta-iterations."""
    learner = Learner(run)
    begin = time.time()
    yield {"first iteration": returns(learner.iterate()), "seconds": since(begin)}
    rows = []
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
        "sampling steps/s": round(steps / mean["time/sampling"]),
        "end to end steps/s": round(steps / mean["time/whole"]),
        **{f"{name[5:]}, s": round(seconds, 4) for name, seconds in mean.items()},
        **returns(metrics),
        **(memory() if torch.cuda.is_available() else {}),
    }
    if learner.simulations.device.type == "cuda":
        yield of_step(learner)
        yield of_update(learner)
    learner.close()


def returns(metrics: dict[str, float]) -> Line:
    """Mean returns of an iteration."""
    return {when: round(metrics[f"return/{when}"], 2) for when in ("before", "after")}


def memory() -> Line:
    """GB in use: the most that torch has had, and all of the GPU's."""
    free, total = torch.cuda.mem_get_info()
    return {
        "GPU": torch.cuda.get_device_name(),
        "torch, GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "GPU, GB": round((total - free) / 1e9, 2),
    }


def kernels_of(function: Callable[[], object]) -> tuple[list[Any], float]:
    """The kernels that a function runs, and seconds on the clock until all of them have ended."""
    cuda = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[cuda], acc_events=True) as profiler:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    return [event for event in profiler.events() if event.device_type.name == "CUDA"], wall


def milliseconds(kernels: list[Any]) -> float:
    """Their time on the GPU."""
    return sum(event.device_time_total for event in kernels) / 1e3


def of_step(learner: Any, steps: int = 12) -> Line:
    """Kernels of an environment step, and milliseconds of them in physics and in the rest.

    Of a rollout that is twice as long, without the resets and all else that both have once.
    """
    key = RandomKey(1, Phase.EVALUATION)
    number = learner.config.meta_batch_size
    tasks = learner.family.sample_tasks(number, key)
    simulations, actor = (
        learner.simulations.of(number, learner.episodes),
        learner.begin(tasks).actor(),
    )

    def of_rollout(length: int) -> Line:
        kernels, wall = kernels_of(
            lambda: collect(
                *(simulations, actor, learner.units, tasks, learner.episodes, length, key, 0),
                learner.workers,
            )
        )
        physics = [event for event in kernels if event.name.endswith(WARP_KERNEL)]
        of_physics = milliseconds(physics)
        return {
            "kernels per step": len(kernels),
            "of warp": len(physics),
            "physics per step, ms": of_physics,
            "torch per step, ms": milliseconds(kernels) - of_physics,
            "clock per step under the profiler, ms": 1e3 * wall,
        }

    short, long = of_rollout(steps), of_rollout(2 * steps)
    return {name: round((long[name] - short[name]) / steps, 4) for name in short}


def of_update(learner: Any) -> Line:
    """Kernels of a meta-update: what is not their time is what launching them takes."""
    step, found = learner.outer.step, {}

    def profiled(*arguments: Any) -> Any:
        results = []
        kernels, wall = kernels_of(lambda: results.append(step(*arguments)))
        found["kernels of an update"] = float(len(kernels))
        found["their time, ms"] = round(milliseconds(kernels), 2)
        found["clock under the profiler, ms"] = round(1e3 * wall, 2)
        return results[0]

    learner.outer.step = profiled
    learner.iterate()
    learner.outer.step = step
    return found


def curve(options: Options, run: Config) -> Iterator[Line]:
    """Trains to the goal; a line for each iteration."""
    learner = Learner(run)
    begin = time.time()
    while since(begin) < options.curve_seconds:
        metrics = learner.iterate()
        yield {
            "iteration": learner.iteration,
            "seconds": since(begin),
            "steps": learner.env_steps,
            **returns(metrics),
        }
        if metrics["return/after"] >= options.goal:
            break
    learner.close()


def start_compilers(options: Options) -> list[tuple[str, subprocess.Popen[bytes]]]:
    """Begins to fill warp's cache, each family in a process of its own: compilers use one core."""
    code = (
        "import sys, metarl; "
        "c = metarl.Config(sys.argv[1], simulation='warp', meta_batch_size=2, "
        "episodes=int(sys.argv[2]), horizon=4, warp_deterministic=sys.argv[3] == 'True'); "
        "metarl.Learner(c).iterate()"
    )
    wanted = [(f"{family} warp", False) for family in options.families]
    if options.deterministic:
        wanted.append((f"{options.families[0]} deterministic", True))
    episodes = str(options.worlds[0] // options.tasks)
    return [
        (
            name,
            subprocess.Popen(
                [sys.executable, "-c", code, f"envs:{name.split()[0]}-v0", episodes, str(fixed)]
            ),
        )
        for name, fixed in wanted
    ]


def exit_code(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """That of a process, None if it takes longer; it is ended then."""
    try:
        return process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        return None


def write(options: Options, line: Line) -> None:
    """Prints the line, and appends it to the file."""
    text = json.dumps(line)
    print(text, flush=True)
    with options.results.open("a") as file:
        file.write(text + "\n")


def since(begin: float) -> float:
    """Seconds."""
    return round(time.time() - begin, 2)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
