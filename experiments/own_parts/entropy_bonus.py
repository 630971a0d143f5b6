"""An estimator of one's own: the inner loop maximises the return and the entropy of the policy.

From this folder:

    metarl train --family envs:Navigation2D-v0 --estimator entropy_bonus:with_entropy --iterations 5
"""

import torch
from torch import Tensor

from metarl.sampling.data import Batch

WEIGHT = 0.1
"""Of the entropy, in units of the advantages' deviation."""


def with_entropy(log_probs: Tensor, batch: Batch) -> Tensor:
    """Ĵ = mean_t r̂_t (A_t − w log π_old(a_t|s_t)),  r̂_t = π(a_t|s_t) / π_old(a_t|s_t): [tasks].

    Its gradient where the batch was collected is that of E[A] + w H(π).

    Args:
        log_probs: log π(a_t|s_t), [tasks, episodes, time].
        batch: the rollout with its advantages; its `log_probs` are log π_old(a_t|s_t).

    """
    # Padding has weight 0, but what stands there must not overflow.
    ratio = torch.exp((log_probs - batch.log_probs) * (batch.weight > 0))
    return batch.mean(ratio * (batch.advantages - WEIGHT * batch.log_probs))
