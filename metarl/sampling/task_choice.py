"""Which tasks an iteration trains on: those that the family draws, or the hard ones among them.

A task is hard if its return after adaptation is low. Training on the share α of the tasks with the
lowest returns maximises the conditional value at risk, CVaR_α = E[R | R ≤ q_α(R)], in place of the
mean E[R] (RoML: Greenberg et al. 2023, arXiv 2301.11147); here it is (1 − s) E[R] + s CVaR_α, as a
share s of the tasks is chosen. Which tasks are hard is predicted from the returns of earlier
iterations, so that no task is rolled out only to be discarded (MPTS: Wang et al. 2025, arXiv
2501.11039; PDTS: Qu et al. 2025, arXiv 2504.19139).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.support.options import Share
from metarl.support.randomness import RandomKey, Use
from metarl.support.types import State
from metarl.tasks.family import TaskFamily
from metarl.tasks.task import Tasks, count_tasks, select_tasks

MEMORY = 256
"""Newest tasks whose returns the prediction is made from. Older policies had other returns."""
LENGTHS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Length scales of the prediction, in standard deviations of the tasks."""
NOISES = (0.01, 0.1, 0.5, 1.0)
"""Variances of a return that its task does not explain, in units of the variance of returns."""


@dataclass(frozen=True, kw_only=True)
class TaskChoiceOptions:
    """Options of a learner that can choose its tasks."""

    task_choice: Literal["uniform", "hard"] = "uniform"
    """Tasks of training: `uniform` takes those that the family draws, `hard` also those for which
    the lowest returns after adaptation are predicted. `return/...` is then that of harder tasks."""
    task_tail: Share = 0.3
    """Share of the family's tasks that are hard ones for --task-choice hard: the α of CVaR."""
    hard_share: Share = 0.5
    """Share of an iteration's tasks that --task-choice hard takes from the hard ones; the others
    are as the family draws them, so that the returns of easy tasks stay known."""


class TaskSampler:
    """Draws the tasks of iterations, and learns from their returns which ones are hard.

    The tasks are a function of the seed, the iteration and what was learned, which is part of a
    checkpoint. All processes of a run learn the same, so that they draw the same.
    """

    def __init__(self, family: TaskFamily, options: TaskChoiceOptions):
        self._family = family
        self._tail, self._share = options.task_tail, options.hard_share
        self._chooses = options.task_choice == "hard"
        self._tasks = torch.zeros(0, 0, dtype=torch.float64)  # [known, parameters]
        self._returns = torch.zeros(0, dtype=torch.float64)  # [known]
        self._drawn = self._tasks  # [number, parameters] of this iteration
        self._predicted: Tensor | None = None  # [number]: their returns

    def draw(self, number: int, key: RandomKey) -> Tasks:
        """So many tasks for the iteration `key`: arrays [number, ...]."""
        hard = round(self._share * number) if self._chooses and len(self._returns) else 0
        as_drawn = number - hard
        candidates = as_drawn + math.ceil(hard / self._tail)
        tasks = self._family.sample_tasks(candidates, key, "train")
        if not self._chooses:
            return tasks
        x, self._predicted = as_rows(tasks), None
        chosen = torch.arange(number)
        if hard:
            std, mean = torch.std_mean(x, 0, correction=0)
            std = torch.where(std > 0, std, 1.0)
            known, at = ((values - mean) / std for values in (self._tasks, x))
            expected, deviation = predict(known, self._returns, at)
            # A sample of what the returns may be: tasks unlike all that are known are tried, too.
            noise = [key.generator(Use.CHOICE, i).standard_normal() for i in range(candidates)]
            possible = expected + deviation * torch.tensor(noise, dtype=torch.float64)
            hardest = as_drawn + possible[as_drawn:].argsort(stable=True)[:hard]
            chosen = torch.cat([chosen[:as_drawn], hardest.sort().values])
            self._predicted = expected[chosen]
        self._drawn = x[chosen]
        return select_tasks(tasks, chosen.numpy())

    def learn(self, returns: Tensor) -> dict[str, float]:
        """Learns from the returns of the tasks that were drawn last.

        Args:
            returns: [number], after adaptation, or several sets of them one after the other; NaN
                for a task from which nothing is learned.

        Returns:
            `tasks/predicted`, the correlation of these returns with what was predicted, if it was.

        """
        if not self._chooses:
            return {}
        own = returns.cpu().double().reshape(-1, len(self._drawn)).mean(0)
        known = ~own.isnan()
        parts = self._tasks.reshape(-1, self._drawn.shape[1]), self._drawn[known]
        self._tasks = torch.cat(parts)[-MEMORY:]
        self._returns = torch.cat([self._returns, own[known]])[-MEMORY:]
        if self._predicted is None:
            return {}
        correlation = torch.corrcoef(torch.stack([self._predicted, own])[:, known])[0, 1]
        return {"tasks/predicted": float(correlation.nan_to_num())}  # 0 where none is defined

    def state(self) -> State:
        """What was learned."""
        return {"tasks": self._tasks, "returns": self._returns}

    def load_state(self, state: State) -> None:
        """Continues from `state()`; a checkpoint of an earlier version has none."""
        self._tasks = state.get("tasks", self._tasks)
        self._returns = state.get("returns", self._returns)


def as_rows(tasks: Tasks) -> Tensor:
    """The numbers of each task in a row: float64 [tasks, parameters]."""
    number = count_tasks(tasks)
    parts = [torch.from_numpy(values.reshape(number, -1)).double() for values in tasks.values()]
    return torch.cat(parts, 1)


def predict(x: Tensor, y: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of y at other places, by a Gaussian process (Rasmussen and Williams 2006).

        k(x, x') = exp(−‖x − x'‖² / (2 d ℓ²)),    K = k(x, x) + s² I
        mean = k(at, x) K⁻¹ y,    variance = 1 − k(at, x) K⁻¹ k(x, at)

    for y of mean 0 and deviation 1. ℓ and s² are those of `LENGTHS` and `NOISES` with the largest
    marginal likelihood (algorithm 2.1).

    Args:
        x: [n, d].
        y: [n].
        at: [m, d].

    Returns:
        [m] each, in the units of y.

    """
    std, mean = torch.std_mean(y, correction=0)
    z = (y - mean) / std.clamp(min=1e-12)
    identity = torch.eye(len(y), dtype=y.dtype)
    best = -math.inf
    distances = _distances(x, x)
    for length in LENGTHS:
        kernel = _kernel(distances, length)
        for noise in NOISES:
            factor = torch.linalg.cholesky(kernel + noise * identity)
            weights = torch.cholesky_solve(z.unsqueeze(-1), factor).squeeze(-1)
            likelihood = float(-z @ weights / 2 - factor.diagonal().log().sum())
            if likelihood > best:
                best, chosen = likelihood, (length, factor, weights)
    length, factor, weights = chosen
    cross = _kernel(_distances(x, at), length)  # [n, m]
    explained = torch.linalg.solve_triangular(factor, cross, upper=False).square().sum(0)
    return mean + std * (weights @ cross), std * (1 - explained).clamp(min=0).sqrt()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i − b_j‖² / d: [n, d], [m, d] -> [n, m]."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a, b, compute_mode=exact).square() / max(1, a.shape[1])


def _kernel(distances: Tensor, length: float) -> Tensor:
    return torch.exp(-distances / (2 * length**2))
