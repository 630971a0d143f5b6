"""A baseline of one's own: the mean of what episodes of a task still earn from a time step on.

From this folder:

    metarl train --family envs:Navigation2D-v0 --baseline time_mean:time_mean --iterations 5
"""

from torch import Tensor

from metarl.sampling.data import Rollout


def time_mean(rollout: Rollout, discounted: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """V_t = mean of G_t over the episodes of the task that have a step t.

    Args:
        rollout: of some tasks.
        discounted: G_t, discounted rewards from t to the last step: [tasks, episodes, time].
        discount: γ.

    Returns:
        V at each step [tasks, episodes, time], 0 on padding, and after the last step [tasks,
        episodes]: 0, as nothing is known of what would follow.

    """
    valid = rollout.valid
    total = (discounted * valid).sum(1, keepdim=True)
    mean = total / valid.sum(1, keepdim=True).clamp(min=1)
    values = mean * valid
    return values, values.new_zeros(values.shape[:2])
