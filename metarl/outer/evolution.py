"""Evolution strategies: a gradient from the returns of perturbed parameters alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.outer.adam import Adam
from metarl.policies.parameters import Parameters, flatten

SMALLEST_STD = 1e-8


@dataclass(frozen=True)
class PerturbedReturns:
    """What perturbed parameters were worth; pair j are the tasks j and j + pairs."""

    noise: Parameters  # [pairs, ...] each: ε
    returns: Tensor  # [2 × pairs]: of θ + σ ε, then of θ − σ ε


class EvolutionStrategies:
    """Antithetic Gaussian smoothing of the return after adaptation.

        ∇_θ E_ε F(θ + σ ε) ≈ 1 / (2 σ n) Σ_j (F(θ + σ ε_j) − F(θ − σ ε_j)) ε_j

    Salimans et al. 2017 (arXiv 1703.03864); of MAML's objective: Song et al. 2020 (ES-MAML, arXiv
    1910.01215). F is divided by its deviation over the perturbations; Adam takes the step.
    """

    def __init__(self, learning_rate: float = 0.01, sigma: float = 0.05):
        self.sigma = sigma
        self._adam = Adam(learning_rate)

    def perturb(
        self, parameters: Mapping[str, Tensor], pairs: int, generator: np.random.Generator
    ) -> tuple[Parameters, Parameters]:
        """ε [pairs, ...] and the parameters θ ± σ ε [2 × pairs, ...]."""
        noise = {
            name: torch.from_numpy(generator.standard_normal((pairs, *p.shape), np.float32)).to(p)
            for name, p in parameters.items()
        }
        perturbed = {
            name: torch.cat([p + self.sigma * noise[name], p - self.sigma * noise[name]])
            for name, p in parameters.items()
        }
        return noise, perturbed

    def step(
        self, objective: PerturbedReturns, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        plus, minus = objective.returns.chunk(2)
        scale = 2 * self.sigma * len(plus) * (objective.returns.std(correction=0) + SMALLEST_STD)
        difference = (plus - minus) / scale
        gradient = {
            name: torch.tensordot(difference.to(noise), noise, 1)
            for name, noise in objective.noise.items()
        }
        theta = self._adam.ascend(parameters, gradient)
        norm = float(flatten(gradient).norm())
        return theta, {"outer/accepted": 1.0, "outer/gradient_norm": norm}

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return self._adam.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self._adam.load_state(state)
