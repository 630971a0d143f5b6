"""How wrong is the meta-gradient? Compares every estimator with the exact one on random MDPs.

The first part computes the expectation of each estimator by enumeration of all trajectories, which
shows the bias. The second part estimates the meta-gradient from batches of sampled episodes, which
shows bias and variance for each batch size. The results are written to results.json,
meta_gradient_bias.png and TensorBoard.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from metarl.maml.estimators import SURROGATES, lvc, naive
from metarl.maml.exact import (
    TabularMDP,
    estimated_meta_gradient,
    exact_meta_gradient,
    expected_return,
    random_mdp,
    random_parameters,
    sampler,
)
from metarl.policies.parameters import Parameters, flatten
from metarl.support.randomness import RandomKey, Use

ESTIMATORS: dict[str, dict[str, Any]] = {
    **{name: {"surrogate": surrogate} for name, surrogate in SURROGATES.items()},
    "naive, no baseline": {"surrogate": naive, "baseline": False},
    "first_order": {"surrogate": lvc, "first_order": True},
}


@dataclass(frozen=True)
class Bias:
    """Sizes of the comparison; the defaults are those of the documentation."""

    mdps: int = 30
    """Random MDPs, each with random logits."""
    states: int = 3
    """States of each MDP."""
    actions: int = 2
    """Actions of each MDP."""
    horizon: int = 4
    """Steps of an episode."""
    inner_lr: float = 0.5
    """Step size of the inner loop, for the return of an episode."""
    inner_steps: int = 1
    """Number of inner steps."""
    batch_sizes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """Episodes of each sampled batch."""
    sampled_mdps: int = 5
    """Number of MDPs on which batches are sampled."""
    repeats: int = 100
    """Batches of each size on each of these MDPs."""
    seed: int = 1
    """Determines all random numbers."""
    run_dir: Path = Path("runs/meta_gradient_bias")
    """Folder of the results."""


Problem = tuple[TabularMDP, Parameters, torch.Tensor]


def main(config: Bias) -> None:
    """Computes both parts and writes the table, the figure and the file."""
    problems = [make_problem(config, i) for i in range(config.mdps)]
    expected = {
        name: [relative(estimate(config, problem, **options), problem[2]) for problem in problems]
        for name, options in ESTIMATORS.items()
    }
    sampled = {
        name: [
            sampled_errors(config, problems[: config.sampled_mdps], n, options)
            for n in config.batch_sizes
        ]
        for name, options in ESTIMATORS.items()
    }
    record(config, expected, sampled)


def make_problem(config: Bias, index: int) -> Problem:
    """An MDP, logits, and the exact meta-gradient at these logits."""
    generator = RandomKey(config.seed).generator(Use.TASK, index)
    mdp = random_mdp(generator, config.states, config.actions)
    theta = random_parameters(mdp, generator)
    expected = partial(expected_return, mdp, horizon=config.horizon)
    exact = exact_meta_gradient(expected, theta, config.inner_lr, config.inner_steps)
    return mdp, theta, flatten(exact)


def estimate(config: Bias, problem: Problem, **options: Any) -> torch.Tensor:
    """The meta-gradient of an estimator: its expectation, or an estimate with `collect`."""
    mdp, theta, _ = problem
    gradient = estimated_meta_gradient(
        mdp, theta, horizon=config.horizon, rate=config.inner_lr, steps=config.inner_steps,
        **options,
    )  # fmt: skip
    return flatten(gradient)


def relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """‖ours − exact‖ / ‖exact‖."""
    return ((ours - exact).norm() / exact.norm()).item()


def sampled_errors(
    config: Bias, problems: list[Problem], episodes: int, options: dict[str, Any]
) -> dict[str, float]:
    """Relative bias, standard deviation and root mean square error, averaged over the MDPs."""
    rows = []
    for i, problem in enumerate(problems):
        mdp, _, exact = problem
        generator = RandomKey(config.seed).generator(Use.ACTION, i, episodes)
        collect: Callable[..., Any] = sampler(
            mdp, config.horizon, episodes, generator, options.get("baseline", True)
        )
        draws = torch.stack(
            [estimate(config, problem, collect=collect, **options) for _ in range(config.repeats)]
        )
        deviation = (draws - draws.mean(0)).square().sum(1).mean().sqrt() / exact.norm()
        rms = (draws - exact).square().sum(1).mean().sqrt() / exact.norm()
        rows.append([relative(draws.mean(0), exact), deviation.item(), rms.item()])
    return dict(zip(("bias", "deviation", "rms"), np.mean(rows, axis=0).tolist(), strict=True))


def record(
    config: Bias, expected: dict[str, list[float]], sampled: dict[str, list[dict[str, float]]]
) -> None:
    """Prints the table, and writes JSON, PNG and TensorBoard data to the run folder."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    sizes = [f"rms {n}" for n in config.batch_sizes]
    table = Table("estimator", "median", "max", *sizes, box=None)
    results: dict[str, Any] = {}
    for name, errors in expected.items():
        rows = sampled[name]
        bias = float(np.median(errors)), max(errors)
        table.add_row(name, *(f"{x:.1e}" for x in bias), *(f"{row['rms']:.3f}" for row in rows))
        results[name] = {
            "expected": {"median": bias[0], "max": bias[1], "all": errors},
            "sampled": dict(zip(map(str, config.batch_sizes), rows, strict=True)),
        }
    Console().print("relative error of the expected meta-gradient (median and maximum over MDPs),")
    Console().print("and root mean square error of estimates from batches of episodes")
    Console().print(table)
    described = {**vars(config), "run_dir": str(config.run_dir)}
    text = json.dumps({"config": described, "estimators": results}, indent=2)
    (config.run_dir / "results.json").write_text(text + "\n")
    figure = draw(config, sampled)
    figure.savefig(config.run_dir / "meta_gradient_bias.png", dpi=120)
    with SummaryWriter(str(config.run_dir)) as writer:
        writer.add_figure("meta-gradient", figure)


def draw(config: Bias, sampled: dict[str, list[dict[str, float]]]) -> matplotlib.figure.Figure:
    """Draws bias, standard deviation and error against the batch size."""
    figure = matplotlib.figure.Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    titles = {"bias": "bias", "deviation": "standard deviation", "rms": "root mean square error"}
    for axis, (part, title) in zip(axes, titles.items(), strict=True):
        for name, rows in sampled.items():
            axis.loglog(config.batch_sizes, [row[part] for row in rows], "o-", ms=3, label=name)
        axis.set(title=title, xlabel="episodes per batch")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative to the exact meta-gradient")
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


if __name__ == "__main__":
    main(tyro.cli(Bias, description=__doc__))
