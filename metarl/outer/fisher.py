"""The natural gradient of any objective, by products with its Fisher matrix."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from metarl.policies.parameters import Parameters, flatten, unflatten


class TrustRegionObjective(Protocol):
    """What TRPO asks of an objective; KL is 0 where the experience was collected."""

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(surrogate, KL) at θ."""

    def gradient(self, parameters: Mapping[str, Tensor]) -> tuple[float, Parameters]:
        """(surrogate, ∇_θ surrogate) at θ."""

    def kl_curvature(
        self, parameters: Mapping[str, Tensor], stride: int = 1
    ) -> Callable[[Parameters], Parameters]:
        """v -> (∇²_θ KL) v, on every `stride`-th step."""


def natural_step(
    objective: TrustRegionObjective,
    parameters: Parameters,
    max_kl: float,
    cg_iterations: int,
    cg_damping: float,
    fisher_stride: int,
) -> tuple[float, Tensor, Tensor, Tensor]:
    """The step along F⁻¹ ∇ surrogate whose KL is `max_kl`, as far as the KL is quadratic.

    The direction x solves (F + damping I) x = ∇ surrogate by conjugate gradients; the length is
    √(2 max_kl / xᵀFx), 0 where there is no gradient.

    Returns:
        The surrogate, its gradient, the direction and the length.

    """
    surrogate, gradients = objective.gradient(parameters)
    gradient = flatten(gradients)
    curvature = objective.kl_curvature(parameters, fisher_stride)

    def damped_product(vector: Tensor) -> Tensor:
        product = flatten(curvature(unflatten(vector, parameters)))
        return product + cg_damping * vector

    direction, residual = conjugate_gradient(damped_product, gradient, cg_iterations)
    # (F + damping I) x = ∇ − residual, so the quadratic form needs no further product.
    form = direction @ (gradient - residual)
    length = torch.sqrt(2 * max_kl / form) if form > 0 else torch.zeros_like(form)
    return surrogate, gradient, direction, length


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Solves A x = b for a positive definite A given by products: (x, b − A x)."""
    x = torch.zeros_like(b)
    residual, p = b.clone(), b.clone()
    squared = residual @ residual
    for _ in range(iterations):
        if squared < tolerance:
            break
        ap = product(p)
        alpha = squared / (p @ ap)
        x = x + alpha * p
        residual = residual - alpha * ap
        previous, squared = squared, residual @ residual
        p = residual + squared / previous * p
    return x, residual
