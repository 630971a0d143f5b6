"""State-value baselines, fitted per task and per stage."""

import torch
from torch import Tensor

from metarl.rollout import Rollout

RIDGE = 1e-5
SMALLEST_STD = 1e-6


def features(observations: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """φ(s) = (z, z², 1) of the standardised observation z, float64: [tasks, ..., feature].

    After Duan et al. 2016 (arXiv 1604.06778). Their powers of time are left out: they tell how far
    the cut of a truncated episode is, which is not a property of the state, and with them the
    bootstrapped fit below is singular, as V = γ^(−t) satisfies it whatever the rewards.

    Args:
        observations: [tasks, ..., observation].
        mean, std: [tasks, observation].
    """
    shape = (len(mean), *(1,) * (observations.dim() - 2), -1)
    z = (observations - mean.reshape(shape)) / std.reshape(shape)
    return torch.cat([z, z.square(), torch.ones_like(z[..., :1])], -1)


def fit_values(rollout: Rollout, discounted: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """Linear state values by least-squares temporal differences, LSTD(1) (Boyan 1999).

    With V(s) = wᵀφ(s) and n_t the steps from t to the end at T, w of each task solves

        Σ_t φ_t (φ_t − γ^{n_t} φ_T)ᵀ w + ε w = Σ_t φ_t G_t

    where φ_T is 0 if the episode terminated. Without truncation this is the ridge regression of
    the return; with it, the value of the last state stands for what was cut off.

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
    final = final * ~rollout.terminated.unsqueeze(-1)  # [tasks, episodes, feature]
    n = rollout.valid.flip(-1).cumsum(-1).flip(-1)
    ahead = ((discount ** n.double()).unsqueeze(2) @ phi).squeeze(2)  # Σ_t γ^{n_t} φ_t
    left = phi.flatten(1, 2).mT @ phi.flatten(1, 2) - ahead.mT @ final
    left += RIDGE * torch.eye(left.shape[-1], dtype=left.dtype, device=left.device)
    right = phi.flatten(1, 2).mT @ discounted.flatten(1, 2).unsqueeze(-1)
    w = torch.linalg.solve(left, right)  # [tasks, feature, 1]
    return (phi @ w.unsqueeze(1)).squeeze(-1), (final @ w).squeeze(-1)
