"""Surrogate objectives of the inner loop, one function per estimator: [tasks] to be maximised.

All have the policy gradient as their gradient where the batch was collected, θ₀; that of DiCE is
discounted from the start of the episode, and has λ = 1. They differ in their Hessian there, which
the meta-gradient needs. The Hessian of the expected return is H1 + H2 + H12 + H12ᵀ (Rothfuss et al.
2018, arXiv 1810.06784): with s_t = ∇log π_t,

    H1 = E Σ_t s_t s_tᵀ Q_t,    H2 = E Σ_t ∇²log π_t Q_t,    H12 = E Σ_t s_t ∇Q_tᵀ

`log_probs` are log π_θ(a_t|s_t), [tasks, episodes, time]; r̂_t = π_θ / π_θ₀ is their ratio to those
that the batch was collected with, so that a line search away from θ₀ is corrected for that. Which
of the Hessians is exact is proved by enumeration in tests/test_exact.py.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.sampling.data import Batch
from metarl.support.errors import UsageError
from metarl.support.forms import form_of
from metarl.support.parts import Parts, takes

Surrogate = Callable[[Tensor, Batch], Tensor]


def naive(log_probs: Tensor, batch: Batch) -> Tensor:
    """Ĵ = mean_t log π_t · A_t, as in the code of Finn et al. 2017 (arXiv 1703.03400).

    Its Hessian is H2 alone, and changes with the baseline that A has.
    """
    return batch.mean(log_probs * batch.advantages)


def lvc(log_probs: Tensor, batch: Batch) -> Tensor:
    """Low-variance curvature: Ĵ = mean_t r̂_t · A_t; the Hessian is H1 + H2.

    Source: Rothfuss et al. 2018 (ProMP, arXiv 1810.06784), equation 12.
    """
    return batch.mean(torch.exp(_log_ratio(log_probs, batch)) * batch.advantages)


def dice(log_probs: Tensor, batch: Batch) -> Tensor:
    """Ĵ = mean_t (Π_{k ≤ t} r̂_k) · reward_t + (1 − r̂_t) · b_t: exact, and of high variance.

    Source: Foerster et al. 2018 (DiCE, arXiv 1802.05098). It differentiates the rewards themselves,
    so λ has no part in it, but for the deviation of the advantages that all are divided by.
    """
    log_ratio = _log_ratio(log_probs, batch)
    rewards = torch.exp(log_ratio.cumsum(-1)) * batch.rewards
    return batch.mean(rewards + (1 - torch.exp(log_ratio)) * batch.values)


def loaded_dice(log_probs: Tensor, batch: Batch, decay: float = 1.0) -> Tensor:
    """Ĵ = mean_t (exp v_t − exp(v_t − log r̂_t)) · A_t,  v_t = Σ_{k ≤ t} decay^{t−k} log r̂_k.

    Exact with decay 1; below it the dependence on actions long past is dropped, and variance with
    it. Source: Farquhar et al. 2019 (Loaded DiCE, arXiv 1909.10549).
    """
    log_ratio = _log_ratio(log_probs, batch)
    lag = torch.arange(log_ratio.shape[-1], device=log_ratio.device)
    lag = lag - lag.unsqueeze(-1)  # [k, t]: t − k
    base = torch.full((), decay, dtype=log_ratio.dtype, device=lag.device)
    decays = torch.triu(base ** lag.clamp(min=0))
    v = log_ratio @ decays
    return batch.mean((torch.exp(v) - torch.exp(v - log_ratio)) * batch.advantages)


def taypo2(log_probs: Tensor, batch: Batch) -> Tensor:
    """Ĵ = mean_t (r̂_t − 1) · (1 + Σ_{k < t} (r̂_k − 1)) · A_t: exact at θ₀.

    The Taylor expansion of the off-policy value to second order.
    Source: Tang et al. 2021 (arXiv 2106.13125).
    """
    excess = torch.expm1(_log_ratio(log_probs, batch))
    before = excess.cumsum(-1) - excess
    return batch.mean(excess * (1 + before) * batch.advantages)


SURROGATES: dict[str, Surrogate] = {
    "naive": naive,
    "lvc": lvc,
    "dice": dice,
    "loaded_dice": loaded_dice,
    "taypo2": taypo2,
}

SEPARABLE = (naive, lvc)
"""Means over time steps of functions of one step each, which some of the steps estimate. The others
have products of steps in their Hessian, of which a tenth of the steps has a hundredth."""

FIRST_ORDER = "first_order"
"""Any of the surrogates, whose second derivatives the meta-gradient leaves out."""

ESTIMATORS = Parts[Surrogate](
    "--estimator",
    "metarl.estimators",
    {**SURROGATES, FIRST_ORDER: lvc},
    takes("log_probs", "batch"),
    "a function of (log_probs, batch)",
)


def estimated(estimator: Surrogate, log_probs: Tensor, batch: Batch) -> Tensor:
    """What an estimator, which may be the user's own, gives for a batch: [tasks].

    Raises:
        UsageError: it returns anything else, or what has no gradient by the log-probabilities.

    """
    values: object = estimator(log_probs, batch)
    if not isinstance(values, Tensor) or values.shape != (batch.tasks,):
        raise UsageError(
            f"the estimator returns {form_of(values)}, not a tensor [tasks] with a number for each "
            f"of {batch.tasks} tasks: reduce over steps by batch.mean"
        )
    if log_probs.requires_grad and not values.requires_grad:
        raise UsageError(
            "what the estimator returns has no gradient by log_probs, which an inner step follows: "
            "compute it from log_probs, without detach() and no_grad()"
        )
    return values


def _log_ratio(log_probs: Tensor, batch: Batch) -> Tensor:
    # On padding both are the density of an action that nobody took.
    return (log_probs - batch.log_probs) * (batch.weight > 0)
