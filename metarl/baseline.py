"""State-value baselines, fitted per task and per stage."""

import torch
from torch import Tensor

from metarl.rollout import Rollout

RIDGE = 1e-5
SMALLEST_STD = 1e-6
ROUNDS = 10
"""Of bootstrapping: what is well determined is then within 1 % of its limit at γ = .99."""


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
    s = rollout.observations.double() * mask
    mean = s.sum((1, 2)) / number
    variance = ((s - mean[:, None, None]).square() * mask).sum((1, 2)) / number
    std = variance.sqrt().clamp(min=SMALLEST_STD)  # a constant observation says nothing

    phi = features(s, mean, std) * mask  # [tasks, episodes, time, feature]
    cut = ~rollout.terminated.unsqueeze(-1) & (discount < 1)
    final = features(rollout.final_observations.double(), mean, std) * cut
    n = rollout.valid.flip(-1).cumsum(-1).flip(-1).double()
    powers = cut * discount**n  # [tasks, episodes, time]

    returns = discounted.flatten(1, 2).unsqueeze(-1)
    x = ((1 - powers).unsqueeze(-1) * phi).flatten(1, 2)
    w = torch.linalg.solve(_gram(x), x.mT @ returns)  # [tasks, feature, 1]
    x = phi.flatten(1, 2)
    ahead = (powers.unsqueeze(2) @ phi).squeeze(2)  # Σ_t γ^{n_t} φ_t of each episode
    gram, right, bootstrap = _gram(x), x.mT @ returns, ahead.mT @ final
    for _ in range(ROUNDS):
        w = torch.linalg.solve(gram, right + bootstrap @ w)
    return (phi @ w.unsqueeze(1)).squeeze(-1), (final @ w).squeeze(-1)


def _gram(x: Tensor) -> Tensor:
    """Σ x xᵀ + ε I: [tasks, rows, feature] -> [tasks, feature, feature]."""
    return x.mT @ x + RIDGE * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
