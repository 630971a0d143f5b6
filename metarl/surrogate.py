"""Surrogate objectives of the inner loop, one function per estimator."""

import torch
from torch import Tensor

from metarl.advantage import Batch
from metarl.policy import Distribution


def lvc(distribution: Distribution, batch: Batch) -> Tensor:
    """Low-variance curvature: Ĵ = mean_t π_θ(a_t|s_t) / π_θ₀(a_t|s_t) · A_t, [tasks].

    θ₀ collected the batch. There the ratio is 1 and ∇Ĵ the policy gradient; ∇²Ĵ has the terms
    H1 + H2 of the expected return's Hessian, where mean_t log π_θ A_t has H2 alone. Away from θ₀,
    where a line search replays the inner loop, the ratio corrects for who collected the batch.
    Source: Rothfuss et al. 2018 (ProMP, arXiv 1810.06784), equation 12.
    """
    ratio = torch.exp(distribution.log_prob(batch.actions) - batch.log_probs)
    return batch.mean(ratio * batch.advantages)
