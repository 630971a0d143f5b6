"""What an evaluation and an iteration of training say of the episodes of each stage."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from metarl.sampling.data import Outcomes, Rollout
from metarl.sampling.info import InfoMetric
from metarl.support.types import Json


def measured(
    outcomes: Sequence[Outcomes],
    learned_from: Sequence[Outcomes],
    tasks: int,
    repeats: int,
    info: Sequence[InfoMetric],
) -> Json:
    """Fields of an `Evaluation`: returns, success, steps, adaptations and info of each stage.

    Args:
        outcomes: of stages 0 to K, of every task as often as it is adapted to.
        learned_from: of the episodes that each of the K inner steps learned from.
        tasks: their number.
        repeats: adaptations to each task.
        info: what `Outcomes.info` holds.

    """

    def per_adaptation(values: Tensor) -> np.ndarray:
        """Means over episodes: [tasks, adaptations]."""
        means: np.ndarray = values.double().mean(1).reshape(tasks, repeats).cpu().numpy()
        return means

    def of_info(outcome: Outcomes, metric: int) -> np.ndarray:
        """Means over the episodes that report it: [tasks]."""
        assert outcome.info is not None, "it was asked for"
        means: np.ndarray = outcome.info[..., metric].reshape(tasks, -1).nanmean(1).cpu().numpy()
        return means

    each = np.stack([per_adaptation(outcome.returns) for outcome in outcomes])
    rates = [per_adaptation(o.success).mean(1) for o in outcomes if o.success is not None]
    taken = [0, *(outcome.env_steps / tasks / repeats for outcome in learned_from)]
    return {
        "returns": each.mean(-1),
        "adaptations": each if repeats > 1 else None,
        "success": np.stack(rates) if len(rates) == len(outcomes) else None,
        "env_steps": np.cumsum(taken),
        "info": {
            metric.label: np.stack([of_info(outcome, i) for outcome in outcomes])
            for i, metric in enumerate(info)
        },
    }


def return_metrics(
    rollouts: Sequence[Rollout | Outcomes], info: Sequence[InfoMetric] = ()
) -> dict[str, float]:
    """`return/...`, `success/...`, `simulation/unstable` of rollouts 0 to K of the same tasks.

    `info` are the metrics in `rollout.info`, which add `info/<label>/before` and `/after`.
    """
    returns = [float(rollout.returns.mean()) for rollout in rollouts]
    before, after = (rollouts[i].returns.mean(1) for i in (0, -1))
    rates = [float(r.success.float().mean()) for r in rollouts if r.success is not None]
    return {
        "return/before": returns[0],
        "return/after": returns[-1],
        "return/gain": returns[-1] - returns[0],
        "return/hurt": float((after < before).double().mean()),
        **{f"return/step_{k}": value for k, value in enumerate(returns)},
        **({"success/before": rates[0], "success/after": rates[-1]} if rates else {}),
        **{
            f"info/{metric.label}/{when}": float(rollout.info[..., i].nanmean())
            for i, metric in enumerate(info)
            for when, rollout in (("before", rollouts[0]), ("after", rollouts[-1]))
            if rollout.info is not None and not rollout.info[..., i].isnan().all()
        },
        "simulation/unstable": sum(rollout.unstable for rollout in rollouts),
    }
