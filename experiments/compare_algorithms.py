"""Named algorithms beside each other on one family, at equal environment steps.

Trains each with several seeds, one process for each core, and evaluates on the same held-out tasks
after 0 to 3 inner steps; prints a table, writes results.json and draws curves.png. Runs that are
finished are not trained again, unfinished ones go on.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from metarl.algorithms import ALGORITHMS, find_algorithm
from metarl.cli import one_line_errors
from metarl.config import Config
from metarl.evaluation import Evaluation
from metarl.parallel import available_cores
from metarl.training import train


@dataclass(frozen=True)
class Comparison:
    """What is compared, and for how long."""

    family: str = "envs:Navigation2D-v0"
    """Task family, MODULE:ID."""
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """Names, as `metarl algorithms` lists them; each with its own defaults."""
    seeds: int = 3
    """Seeds 1 to this."""
    iterations: int = 100
    """Meta-updates of a run with one inner step; one with more has fewer, at the same number of
    environment steps."""
    meta_batch_size: int = 20
    """Tasks of a meta-iteration."""
    eval_tasks: int = 100
    """Held-out tasks of each seed."""
    inner_steps: int = 3
    """Inner steps of the evaluation."""
    test_later_lr: float = 0.5
    """Steps after the first have this times the step size, as in Finn et al."""
    processes: int = 0
    """Runs at a time; 0 is one for each core."""
    run_dir: Path = Path("runs/compare_algorithms")
    """Each run in a folder below it, `results.json` beside them."""


def main(comparison: Comparison) -> None:
    """Trains, evaluates, prints the table and writes results.json."""
    jobs = [
        (comparison, name, seed)
        for name in comparison.algorithms
        if find_algorithm(name)
        for seed in range(1, comparison.seeds + 1)
    ]
    spawn = multiprocessing.get_context("spawn")
    processes = comparison.processes or available_cores()
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        outcomes = dict(zip(jobs, pool.map(outcome, jobs), strict=True))
    steps = range(comparison.inner_steps + 1)
    table = Table("algorithm", *(f"step {k}" for k in steps), "env steps", "s", box=None)
    results = {}
    for name in comparison.algorithms:
        own = [o for (_, n, _), o in outcomes.items() if n == name]
        returns = np.concatenate([np.array(o["returns"]) for o in own], axis=1)
        metrics = Evaluation("test", {}, returns, np.random.default_rng(0)).metrics()
        row = [[metrics[f"test/step_{k}/{x}"] for x in ("mean", "low", "high")] for k in steps]
        cells = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in row]
        env_steps, seconds = (np.mean([o[x] for o in own]) for x in ("env_steps", "seconds"))
        table.add_row(name, *cells, f"{env_steps / 1e6:.1f}M", f"{seconds:.0f}")
        results[name] = {"steps": row, "runs": own}
    print(
        f"{comparison.family}, {comparison.iterations} iterations, {comparison.seeds} seeds: mean "
        f"return over {comparison.eval_tasks} held-out tasks each, 95 % interval over tasks"
    )
    Console(width=140).print(table)
    described = {**vars(comparison), "run_dir": str(comparison.run_dir)}
    text = json.dumps({"comparison": described, "algorithms": results}, indent=2)
    (comparison.run_dir / "results.json").write_text(text + "\n")
    draw(comparison, results)


def draw(comparison: Comparison, results: dict) -> None:
    """Writes curves.png: training after adaptation, and held-out tasks after each inner step."""
    figure = Figure((11, 4.5), layout="constrained")
    training, adaptation = figure.subplots(1, 2)
    for i, (name, result) in enumerate(results.items()):
        style = {"color": f"C{i % 10}", "linestyle": "--" if i >= 10 else "-"}
        runs = [
            metrics_of(comparison.run_dir / name / f"seed-{run['seed']}") for run in result["runs"]
        ]
        steps = np.array([metrics["env_steps"] for metrics in runs[0]]) / 1e6
        after = np.array([[metrics["return/after"] for metrics in run] for run in runs])
        training.plot(steps, after.mean(0), label=name, **style)
        training.fill_between(steps, after.min(0), after.max(0), alpha=0.15, color=style["color"])
        mean, low, high = np.array(result["steps"]).T
        adaptation.errorbar(
            range(len(mean)), mean, np.array([mean - low, high - mean]), capsize=3, **style
        )
    training.set_xlabel("environment steps, millions")
    training.set_ylabel("return after adaptation")
    training.set_title(f"training, mean and range of {comparison.seeds} seeds")
    adaptation.set_xlabel("inner steps")
    adaptation.set_xticks(range(comparison.inner_steps + 1))
    adaptation.set_title("held-out tasks, 95 % interval over tasks")
    training.legend(fontsize="small")
    figure.suptitle(comparison.family)
    figure.savefig(comparison.run_dir / "curves.png", dpi=120)


def metrics_of(run: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def outcome(job: tuple[Comparison, str, int]) -> dict:
    """One run: held-out returns [steps + 1, tasks], and what it took."""
    comparison, name, seed = job
    sampled = 1 + find_algorithm(name).options.get("inner_steps", 1)  # times in an iteration
    config = Config.of(
        name,
        family=comparison.family,
        iterations=max(1, comparison.iterations * 2 // sampled),
        meta_batch_size=comparison.meta_batch_size,
        seed=seed,
        threads=1,
        eval_every=0,
        test_later_lr=comparison.test_later_lr,
        run_dir=comparison.run_dir / name / f"seed-{seed}",
        resume=True,
    )
    learner = train(config)
    evaluation = learner.evaluate(comparison.eval_tasks, comparison.inner_steps)
    return {
        "seed": seed,
        "returns": evaluation.returns.tolist(),
        "env_steps": learner.env_steps,
        "seconds": metrics_of(config.run_folder)[-1]["seconds"],
    }


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Comparison, description=__doc__))
