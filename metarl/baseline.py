"""State-value baselines, fitted per task and per stage."""

import torch
from torch import Tensor

from metarl.rollout import Rollout

RIDGE = 1e-5
SMALLEST_STD = 1e-6


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

        min_w Σ_t (c_t wᵀφ_t − G_t)² + ε ‖w‖²,   c_t = 1 − γ^{n_t} if truncated, 1 if terminated

    where n_t is the number of steps from t to the end. What a truncation cuts off, γ^{n_t} of the
    value, is taken to be worth as much as what came before it. Temporal differences, which would
    ask V(s_T) for it, are all but singular where the state moves on like a clock: then γ^{−t} can
    be added to any solution, and the fit of a point that drifts away says that far is good. Without
    discount a cut has no finite value, and nothing is put in its place.

    Args:
        discounted: G_t, discounted rewards from t to the last step: [tasks, episodes, time].

    Returns:
        V(s_t) [tasks, episodes, time], 0 on padding, and V(s_T) [tasks, episodes], 0 where
        terminated.
    """
    mask = rollout.valid.unsqueeze(-1)
    number = mask.sum((1, 2))
    s = rollout.observations.double() * mask
    mean = s.sum((1, 2)) / number
    variance = ((s - mean[:, None, None]).square() * mask).sum((1, 2)) / number
    std = variance.sqrt().clamp(min=SMALLEST_STD)  # a constant observation says nothing

    phi = features(s, mean, std) * mask  # [tasks, episodes, time, feature]
    final = features(rollout.final_observations.double(), mean, std)
    n = rollout.valid.flip(-1).cumsum(-1).flip(-1).double()
    cut = ~rollout.terminated.unsqueeze(-1) & (discount < 1)
    c = 1 - cut * discount**n
    x = (c.unsqueeze(-1) * phi).flatten(1, 2)
    left = x.mT @ x
    left += RIDGE * torch.eye(left.shape[-1], dtype=left.dtype, device=left.device)
    w = torch.linalg.solve(left, x.mT @ discounted.flatten(1, 2).unsqueeze(-1))
    return (phi @ w.unsqueeze(1)).squeeze(-1), (final @ w).squeeze(-1) * cut.squeeze(-1)
