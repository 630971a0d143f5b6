"""Regression of sinusoids from a few points.

Source: Finn, Abbeel, Levine 2017 (arXiv 1703.03400), section 5.1: amplitude U[.1, 5], phase
U[0, π], inputs U[−5, 5]; two hidden layers of 40 rectified units.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from metarl.tasks.samples import Samples


class Sinusoid:
    """Regression of y = A sin(x − φ) from K points."""

    name = "sinusoid regression"
    measure = "mse"
    higher_is_better = False
    head = ("4.weight", "4.bias")
    groups = ()
    loss = staticmethod(nn.functional.mse_loss)

    def __init__(self, shots: int = 10, hidden: int = 40):
        """`shots`: K, the points of the support set."""
        self.shots = shots
        self.module = nn.Sequential(
            *(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()),
            nn.Linear(hidden, 1),
        )

    def sample(
        self, number: int, generator: Callable[[int], np.random.Generator], split: str
    ) -> tuple[Samples, Samples]:
        """K query points in training, 100 in an evaluation: [tasks, points, 1]."""
        queries = self.shots if split == "train" else 100
        xs, ys = [], []
        for task in range(number):
            random = generator(task)
            amplitude, phase = random.uniform(0.1, 5.0), random.uniform(0.0, np.pi)
            xs.append(random.uniform(-5.0, 5.0, (self.shots + queries, 1)))
            ys.append(amplitude * np.sin(xs[-1] - phase))
        x, y = (torch.from_numpy(np.stack(part)).float() for part in (xs, ys))
        k = self.shots
        return Samples(x[:, :k], y[:, :k]), Samples(x[:, k:], y[:, k:])

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error: [tasks]."""
        return (outputs - targets).square().mean((1, 2))
