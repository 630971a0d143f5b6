"""Few-shot regression of sinusoids: MAML on supervised tasks.

Finn et al. 2017 (arXiv 1703.03400), section 5.1: amplitude U[.1, 5], phase U[0, π], inputs
U[−5, 5], K support points; two hidden layers of 40 units; inner step size .01, Adam at .001.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from metarl.cli import one_line_errors
from metarl.few_shot import FewShotConfig, FewShotLearner
from metarl.supervised import Samples
from metarl.training import run


class Sinusoid:
    """y = A sin(x − φ) from K points; `measure` is the mean squared error on the query set."""

    name = "sinusoid regression"
    measure = "mse"
    head = ("4.weight", "4.bias")
    loss = staticmethod(nn.functional.mse_loss)

    def __init__(self, shots: int, seed: int):
        self.shots = shots
        torch.manual_seed(seed)
        self.module = nn.Sequential(
            nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
        )

    def sample(
        self, number: int, generator: Callable[[int], np.random.Generator], split: str
    ) -> tuple[Samples, Samples]:
        """K support and K query points in training, 100 query points in an evaluation."""
        queries = self.shots if split == "train" else 100
        xs, ys = [], []
        for task in range(number):
            random = generator(task)
            amplitude, phase = random.uniform(0.1, 5.0), random.uniform(0.0, np.pi)
            x = random.uniform(-5.0, 5.0, (self.shots + queries, 1))
            xs.append(x)
            ys.append(amplitude * np.sin(x - phase))
        x, y = (torch.from_numpy(np.stack(part)).float() for part in (xs, ys))
        k = self.shots
        return Samples(x[:, :k], y[:, :k]), Samples(x[:, k:], y[:, k:])

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error: [tasks]."""
        return (outputs - targets).square().mean((1, 2))


@dataclass(frozen=True)
class SinusoidConfig(FewShotConfig):
    """A run on sinusoids."""

    shots: int = 10
    """K: points of the support set."""


if __name__ == "__main__":
    with one_line_errors():
        default = SinusoidConfig(iterations=15000, run_dir="runs/sinusoid", eval_every=1000)
        config = tyro.cli(SinusoidConfig, default=default, description=__doc__)
        learner = FewShotLearner(config, Sinusoid(config.shots, config.seed))
        run(learner)
        for name, value in learner.evaluate(600).metrics().items():
            print(f"{name:20s} {value:8.4f}")
