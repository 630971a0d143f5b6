"""State-value baselines, fitted per task and per stage."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from metarl.policies.mlp import MLP
from metarl.sampling.data import Rollout
from metarl.support.parts import Parts, takes

Baseline = Callable[[Rollout, Tensor, float], tuple[Tensor, Tensor]]
"""(rollout, G_t, γ) -> V(s_t) [tasks, episodes, time] and V(s_T) [tasks, episodes]."""

RIDGE = 1e-5
SMALLEST_STD = 1e-6
ROUNDS = 10
"""Of bootstrapping: what is well determined is then within 1 % of its limit at γ = .99."""


NETWORK_SIZES = (32, 32)
NETWORK_STEPS, NETWORK_RATE = 60, 1e-2


LARGEST_OBSERVATION, PROJECTED = 256, 64
"""Observations of more numbers, such as images, are projected to this many."""


def projected(observations: Tensor) -> Tensor:
    """Observations that a regression can take: [..., observation] -> [..., at most 256].

    Larger ones are multiplied by a fixed matrix of normal numbers, which keeps distances
    approximately (Johnson and Lindenstrauss 1984): the regression costs the cube of their length.
    """
    size = observations.shape[-1]
    if size <= LARGEST_OBSERVATION:
        return observations
    return observations.float() @ _projection(size).to(observations.device)


@functools.cache
def _projection(size: int) -> Tensor:
    """Normal numbers of variance 1 / size: [size, PROJECTED]."""
    drawn = np.random.default_rng(0).standard_normal((size, PROJECTED), np.float32)
    return torch.from_numpy(drawn / size**0.5)


def features(observations: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """φ(s) = (z, z², 1) of the standardised observation z, float64: [tasks, ..., feature].

    After Duan et al. 2016 (arXiv 1604.06778). Their powers of time are left out: they tell how far
    the cut of a truncated episode is, which is not a property of the state.

    Args:
        observations: [tasks, ..., observation].
        mean, std: [tasks, observation].
    """
    shape = (len(mean), *(1,) * (observations.dim() - 2), -1)
    z = (observations - mean.reshape(shape)) / std.reshape(shape)
    return torch.cat([z, z.square(), torch.ones_like(z[..., :1])], -1)


def fit_values(rollout: Rollout, discounted: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """Linear state values V(s) = wᵀφ(s) by ridge regression, for each task.

        w_0 = argmin_w Σ_t (c_t wᵀφ_t − G_t)² + ε ‖w‖²
        w_k = argmin_w Σ_t (wᵀφ_t − G_t − γ^{n_t} w_{k−1}ᵀφ_T)² + ε ‖w‖²

    where n_t is the number of steps from t to the end, and φ_T is 0 if the episode terminated. At
    first, c_t = 1 − γ^{n_t}: what a truncation cuts off is taken to be worth as much as what came
    before it. Each further round puts the value of the last state in its place. Their limit, which
    least-squares temporal differences (Boyan 1999) solve for at once, is all but undetermined where
    the state moves on like a clock: γ^{−t} can be added to any solution, and the values of a point
    that drifts away may say that far is good. A few rounds leave such directions at w_0.

    Args:
        discounted: G_t, discounted rewards from t to the last step: [tasks, episodes, time].

    Returns:
        V(s_t) [tasks, episodes, time], 0 on padding, and V(s_T) [tasks, episodes], 0 where
        terminated. Without discount a cut has no finite value, and is taken for an end.
    """
    mask = rollout.valid.unsqueeze(-1)
    number = mask.sum((1, 2))
    s = projected(rollout.observations).double() * mask
    mean = s.sum((1, 2)) / number
    variance = ((s - mean[:, None, None]).square() * mask).sum((1, 2)) / number
    std = variance.sqrt().clamp(min=SMALLEST_STD)  # a constant observation says nothing

    phi = features(s, mean, std) * mask  # [tasks, episodes, time, feature]
    cut = ~rollout.terminated.unsqueeze(-1) & (discount < 1)
    final = features(projected(rollout.final_observations).double(), mean, std) * cut
    n = rollout.valid.flip(-1).cumsum(-1).flip(-1).double()
    powers = cut * discount**n  # [tasks, episodes, time]

    returns = discounted.flatten(1, 2).unsqueeze(-1)
    x = ((1 - powers).unsqueeze(-1) * phi).flatten(1, 2)
    w = _solve(_gram(x), x.mT @ returns)  # [tasks, feature, 1]
    x = phi.flatten(1, 2)
    ahead = (powers.unsqueeze(2) @ phi).squeeze(2)  # Σ_t γ^{n_t} φ_t of each episode
    gram, right, bootstrap = _gram(x), x.mT @ returns, ahead.mT @ final
    for _ in range(ROUNDS):
        w = _solve(gram, right + bootstrap @ w)
    return (phi @ w.unsqueeze(1)).squeeze(-1), (final @ w).squeeze(-1)


def fit_network_values(
    rollout: Rollout, discounted: Tensor, discount: float
) -> tuple[Tensor, Tensor]:
    """The linear values plus what a small network, one for each task, explains of their residual.

    Its last layer begins at 0, so that it begins at the linear fit, and follows the mean square of
    G_t + γ^{n_t} V(s_T) − V(s_t) − f(s_t) with Adam; V(s_T) stays linear. Arguments and results as
    of `fit_values`.
    """
    values, final = fit_values(rollout, discounted, discount)
    weight = rollout.valid.flatten(1, 2).float()
    n = rollout.valid.flip(-1).cumsum(-1).flip(-1)
    targets = discounted + discount**n * final.unsqueeze(-1) - values
    y, x = targets.flatten(1, 2).float(), projected(rollout.observations).flatten(1, 2)
    y, scale = _standardised(y.unsqueeze(-1), weight)
    x, _ = _standardised(x, weight)

    network = MLP(x.shape[-1], 1, hidden_sizes=NETWORK_SIZES)
    initial = network.initial_parameters(np.random.default_rng(0))  # the same for every fit
    initial[network.head[0]].zero_()
    parameters = {
        name: p.to(x).repeat(len(x), *(1,) * p.dim()).requires_grad_()
        for name, p in initial.items()
    }
    optimiser = torch.optim.Adam(parameters.values(), NETWORK_RATE, foreach=False)
    with torch.enable_grad():
        for _ in range(NETWORK_STEPS):
            squares = (network.output(parameters, x) - y).square().squeeze(-1) * weight
            optimiser.zero_grad()
            # A sum over tasks, each of which is a mean of its own.
            (squares.sum(1) / weight.sum(1)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        explained = network.output(parameters, x) * scale
    return values + explained.reshape(values.shape).double() * rollout.valid, final


def _standardised(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(x − mean) / deviation over a task's rows, and the deviation: [tasks, rows, size]."""
    weight = weight.unsqueeze(-1)
    number = weight.sum(1, keepdim=True)
    centred = (x - (x * weight).sum(1, keepdim=True) / number) * weight
    deviation = (centred.square().sum(1, keepdim=True) / number).sqrt().clamp(min=SMALLEST_STD)
    return centred / deviation, deviation


BASELINES = Parts[Baseline](
    "--baseline",
    "metarl.baselines",
    {"linear": fit_values, "network": fit_network_values},
    takes("rollout", "discounted", "discount"),
    "a function of (rollout, discounted, discount)",
)


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """`torch.linalg.solve` without the look at its success: the ridge makes the matrix regular."""
    solution: Tensor = torch.linalg.solve_ex(gram, right)[0]
    return solution


def _gram(x: Tensor) -> Tensor:
    """Σ x xᵀ + ε I: [tasks, rows, feature] -> [tasks, feature, feature]."""
    return x.mT @ x + RIDGE * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
