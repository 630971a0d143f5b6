"""Evolution strategies: a gradient from the returns of perturbed parameters alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.outer.adam import Adam
from metarl.outer.loop import OtherOptions, OuterLoop, Start, StepSizeOptions, expect
from metarl.outer.objective import PolicyObjective
from metarl.policies.parameters import Parameters, flatten
from metarl.support.looks import read
from metarl.support.options import Positive
from metarl.support.randomness import RandomKey, Use

SMALLEST_STD = 1e-8


@dataclass(frozen=True, kw_only=True)
class EvolutionOptions(StepSizeOptions):
    """Options of evolution strategies."""

    sigma: Positive = 0.05
    """Standard deviation of evolution's perturbations of θ."""


class EvolutionStrategies(OuterLoop[EvolutionOptions]):
    """Antithetic Gaussian smoothing of the return after adaptation.

        ∇_θ E_ε F(θ + σ ε) ≈ 1 / (2 σ n) Σ_j (F(θ + σ ε_j) − F(θ − σ ε_j)) ε_j

    Salimans et al. 2017 (arXiv 1703.03864); of MAML's objective: Song et al. 2020 (ES-MAML, arXiv
    1910.01215). F is divided by its deviation over the perturbations; Adam takes the step.
    """

    Options = EvolutionOptions
    differentiates = False

    def __init__(self, options: EvolutionOptions):
        """`sigma` is σ; `outer_lr` is the step size of Adam."""
        self._sigma = options.sigma
        self._adam = Adam(options.outer_lr)
        self._noise: Parameters = {}  # ε of the iteration that has begun, [pairs, ...] each

    @classmethod
    def check(cls, options: OtherOptions) -> None:
        """Checks that the tasks form pairs."""
        super().check(options)
        expect(
            options.meta_batch_size % 2 == 0,
            f"--outer {options.outer} needs pairs: --meta-batch-size {options.meta_batch_size} "
            "must be even",
        )

    def begin(self, parameters: Mapping[str, Tensor], tasks: int, key: RandomKey) -> Start:
        """θ + σ ε for the first half of the tasks, θ − σ ε for the same tasks in the second."""
        generator = key.generator(Use.PERTURBATION)
        self._noise = {
            name: torch.from_numpy(
                generator.standard_normal((tasks // 2, *p.shape), np.float32)
            ).to(p)
            for name, p in parameters.items()
        }
        moves = {name: self._sigma * noise for name, noise in self._noise.items()}
        perturbed = {n: torch.cat([p + moves[n], p - moves[n]]) for n, p in parameters.items()}
        return Start(perturbed, repeats=2)

    def step(
        self, objective: PolicyObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""
        returns = objective.returns()
        plus, minus = returns.chunk(2)
        scale = 2 * self._sigma * len(plus) * (returns.std(correction=0) + SMALLEST_STD)
        difference = (plus - minus) / scale
        gradient = {
            name: torch.tensordot(difference.to(noise), noise, 1)
            for name, noise in self._noise.items()
        }
        theta = self._adam.ascend(parameters, gradient)
        norm = read(flatten(gradient).norm())[0]
        return theta, {"outer/accepted": 1.0, "outer/gradient_norm": norm}

    def state(self) -> dict[str, Any]:
        """The state of Adam."""
        return self._adam.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self._adam.load_state(state)
