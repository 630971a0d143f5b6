"""The natural gradient of any objective, by products with its Fisher matrix."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.outer.objective import PolicyObjective, divergence
from metarl.policies.parameters import Parameters, flatten, unflatten
from metarl.support.finite import expect_finite
from metarl.support.options import Count, NonNegative, Positive, Share


@dataclass(frozen=True, kw_only=True)
class NaturalOptions:
    """Options of the natural gradient."""

    max_kl: Positive = 0.01
    """Trust region: mean KL divergence between adapted policies."""
    cg_iterations: Count = 10
    """Conjugate-gradient iterations."""
    cg_damping: NonNegative = 1e-5
    """Added to the diagonal of the Fisher matrix."""
    fisher_fraction: Share = 0.1
    """Share of the time steps that Fisher products use; 1 uses all. They are evenly spaced, begin
    at another step in each episode, and are at least 100 of a task, were all its episodes as long
    as the longest. The gradient and the line search always use all, and so do the inner steps of
    estimators other than naive, lvc and first_order."""


def natural_step(
    objective: PolicyObjective, parameters: Parameters, options: NaturalOptions
) -> tuple[float, Tensor, Tensor, Tensor]:
    """The step along F⁻¹ ∇ surrogate whose KL is `max_kl`, as far as the KL is quadratic.

    The direction x solves (F + damping I) x = ∇ surrogate by conjugate gradients; the length is
    √(2 max_kl / xᵀFx), 0 where there is no gradient.

    Returns:
        The surrogate, its gradient, the direction and the length.

    Raises:
        NonFiniteError: a product with the Fisher matrix, and so the direction, is infinite or NaN.

    """
    surrogate, gradients = objective.gradient(parameters)
    gradient = flatten(gradients)
    curvature = objective.curvature(parameters, divergence, round(1 / options.fisher_fraction))

    def damped_product(vector: Tensor) -> Tensor:
        product = flatten(curvature(unflatten(vector, parameters)))
        return product + options.cg_damping * vector

    direction, residual = conjugate_gradient(damped_product, gradient, options.cg_iterations)
    expect_finite("the natural gradient", {"its direction": direction})
    # (F + damping I) x = ∇ − residual, so the quadratic form needs no further product.
    form = direction @ (gradient - residual)
    length = torch.where(form > 0, torch.sqrt(2 * options.max_kl / form), 0.0)
    return surrogate, gradient, direction, length


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Solves A x = b for a positive definite A given by products: (x, b − A x).

    Nothing changes once ‖b − A x‖² is below the tolerance. To stop then, a GPU would have to wait
    at each iteration for the host to look, and the tolerance is rarely reached.
    """
    x = torch.zeros_like(b)
    residual, p = b.clone(), b.clone()
    squared = residual @ residual
    for _ in range(iterations):
        done = squared < tolerance
        ap = product(p)
        alpha = squared / (p @ ap)
        x = torch.where(done, x, x + alpha * p)
        residual = torch.where(done, residual, residual - alpha * ap)
        previous, squared = squared, residual @ residual
        p = torch.where(done, p, residual + squared / previous * p)
    return x, residual
