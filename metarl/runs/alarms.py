"""Alarms: signs that a run does not learn, each reported once with its usual causes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metarl.learners.config import RunConfig
from metarl.learners.maml_config import MAMLConfig

History = Sequence[dict[str, float]]
"""Metrics of successive iterations; the newest come last."""

WINDOW = 50
"""Number of iterations over which noisy metrics are judged."""
RECENT = 10
"""Number of iterations over which metrics with little noise are judged."""

LEAST_AGREEMENT = 0.05
"""Cosine between the gradients of two halves; at .05, a tenth of the square of the whole gradient
is signal: 2 c / (1 + c)."""


@dataclass(frozen=True)
class Alarm:
    """A condition on the history, and its usual causes."""

    sounds: Callable[[History, RunConfig], bool]
    """(history, options of the run) -> whether the condition holds."""
    message: str


def raised(history: History, config: RunConfig) -> dict[str, str]:
    """The alarms whose condition holds at the end of the history: messages by name."""
    return {name: a.message for name, a in ALARMS.items() if a.sounds(history, config)}


def already_raised(history: History, config: RunConfig) -> set[str]:
    """Names of the alarms whose condition held at the end of some part of the history."""
    windows = (history[max(0, end - WINDOW) : end] for end in range(1, len(history) + 1))
    return {name for window in windows for name in raised(window, config)}


def _recent(history: History, name: str, number: int) -> np.ndarray | None:
    """The last `number` values of a metric; None if there are fewer."""
    values = [metrics[name] for metrics in history[-number:] if name in metrics]
    return np.array(values) if len(values) == number else None


def _no_gain(history: History, config: RunConfig) -> bool:
    gains = _recent(history, "return/gain", WINDOW)
    if gains is None or getattr(config, "inner_steps", 1) == 0:
        return False
    return bool(abs(gains.mean()) < 2 * gains.std(ddof=1) / np.sqrt(WINDOW))


def _no_step(history: History, _: RunConfig) -> bool:
    accepted = _recent(history, "outer/accepted", RECENT)
    return accepted is not None and bool(accepted.mean() <= 0.5)


def _certain(history: History, _: RunConfig) -> bool:
    name = "policy/std" if "policy/std" in history[-1] else "policy/entropy"
    values = _recent(history, name, RECENT)
    return values is not None and bool((values < 0.02).all())


def _wrong_kl(history: History, config: RunConfig) -> bool:
    kl, taken = (_recent(history, f"outer/{name}", RECENT) for name in ("kl", "accepted"))
    if kl is None or taken is None or not isinstance(config, MAMLConfig):
        return False
    if config.outer not in ("trpo", "natural"):
        return False
    share = np.median(kl[taken > 0]) / config.max_kl if taken.any() else 1.0
    return bool(share < 0.2 or share > 2)


def _noisy(history: History, _: RunConfig) -> bool:
    agreement = _recent(history, "outer/agreement", WINDOW)
    return agreement is not None and bool(agreement.mean() < LEAST_AGREEMENT)


def _hurts(history: History, config: RunConfig) -> bool:
    hurt = _recent(history, "return/hurt", WINDOW)
    if hurt is None or getattr(config, "inner_steps", 1) == 0:
        return False
    return bool(hurt.mean() > 0.6)


def _not_finite(history: History, _: RunConfig) -> bool:
    left_out = [
        _recent(history, f"non_finite/{name}", RECENT) for name in ("skipped", "dropped_tasks")
    ]
    return any(values is not None and bool((values > 0).mean() >= 0.5) for values in left_out)


ALARMS = {
    "no gain": Alarm(
        _no_gain,
        f"the gain of adaptation does not differ from 0 over {WINDOW} iterations. Usual causes: "
        "an inner step size that is too small (try 3 times --inner-lr) or so large that it "
        "destroys the policy; too few --episodes for a gradient; one policy solves all tasks; "
        "the reward does not depend on the task (see `metarl check`).",
    ),
    "no step": Alarm(
        _no_step,
        f"the line search failed in half of the last {RECENT} iterations or more. Usual causes: "
        "a gradient that is mostly noise (try a larger --meta-batch-size or --episodes); "
        "curvature from too few steps (try --fisher-fraction 1); rewards whose scale differs "
        "greatly between tasks.",
    ),
    "certain": Alarm(
        _certain,
        "the policy hardly explores any more (σ below .02, or entropy below .02 nats). Usual "
        "causes: an outer step size that is too large; a reward that penalises exploration before "
        "adaptation. Try a smaller --inner-lr or --max-kl, or another seed.",
    ),
    "wrong KL": Alarm(
        _wrong_kl,
        "the size of the meta-update is far from --max-kl. Usual causes: a line search that "
        "shortens every step because the surrogate is noisy; with --outer natural, a quadratic "
        "model that does not hold over the whole step (try a smaller --max-kl).",
    ),
    "noisy gradient": Alarm(
        _noisy,
        f"the gradients of two halves of the meta-batch hardly agree (outer/agreement below "
        f"{LEAST_AGREEMENT} over {WINDOW} iterations): the meta-update follows noise. Raise "
        "--meta-batch-size; with few episodes for each task, --episodes. A run that has reached "
        "its best return looks like this as well.",
    ),
    "hurts": Alarm(
        _hurts,
        f"adaptation makes most tasks worse, over {WINDOW} iterations. Usual causes: an inner "
        "step size that is too large; a first-order or naive gradient with a large --inner-lr; "
        "advantages from too few episodes.",
    ),
    "not finite": Alarm(
        _not_finite,
        f"in half of the last {RECENT} iterations or more, a number was infinite or NaN, and the "
        "update or some tasks were left out (--non-finite). The warnings name where. Usual "
        "causes: rewards or observations of very different sizes; a step size that is too large "
        "(try a smaller --inner-lr or --outer-lr).",
    ),
}
