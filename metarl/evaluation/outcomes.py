"""What an evaluation says of the episodes of each stage."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from metarl.sampling.data import Outcomes
from metarl.sampling.info import InfoMetric
from metarl.support.types import Json


def measured(
    outcomes: Sequence[Outcomes], tasks: int, repeats: int, info: Sequence[InfoMetric]
) -> Json:
    """Fields of an `Evaluation`: returns, success, steps, adaptations and info of each stage.

    Args:
        outcomes: of stages 0 to K, of every task as often as it is adapted to.
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
    taken = [0, *(outcome.env_steps / tasks / repeats for outcome in outcomes[:-1])]
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
