"""What a practitioner wants to be told once: that a run does not learn, and the usual causes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metarl.learners.config import RunConfig

History = Sequence[dict[str, float]]
"""Metrics of iterations, the newest last."""

WINDOW = 50
"""Iterations that a judgement needs."""
RECENT = 10
"""Iterations of what should show at once."""


@dataclass(frozen=True)
class Alarm:
    """A condition on the history, and what usually causes it."""

    sounds: Callable[[History, RunConfig], bool]
    """(history, options of the run) -> whether it does."""
    message: str


def raised(history: History, config: RunConfig) -> dict[str, str]:
    """The alarms that sound now: messages by name."""
    return {name: a.message for name, a in ALARMS.items() if a.sounds(history, config)}


def already_raised(history: History, config: RunConfig) -> set[str]:
    """Names of the alarms that sounded at some time of the history."""
    windows = (history[max(0, end - WINDOW) : end] for end in range(1, len(history) + 1))
    return {name for window in windows for name in raised(window, config)}


def _recent(history: History, name: str, number: int) -> np.ndarray | None:
    """The last `number` values of a metric, None if there are not so many yet."""
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
    if kl is None or taken is None or getattr(config, "outer", "") not in ("trpo", "natural"):
        return False
    share = np.median(kl[taken > 0]) / getattr(config, "max_kl", 1.0) if taken.any() else 1.0
    return bool(share < 0.2 or share > 2)


def _hurts(history: History, config: RunConfig) -> bool:
    hurt = _recent(history, "return/hurt", WINDOW)
    if hurt is None or getattr(config, "inner_steps", 1) == 0:
        return False
    return bool(hurt.mean() > 0.6)


ALARMS = {
    "no gain": Alarm(
        _no_gain,
        f"the gain of adaptation cannot be told from 0 over {WINDOW} iterations. Usual causes: "
        "an inner step size that is too small (try 3 times --inner-lr) or so large that it "
        "destroys the policy; too few --episodes for a gradient; tasks that one policy solves "
        "all; a reward that does not depend on the task: `metarl check`.",
    ),
    "no step": Alarm(
        _no_step,
        f"the line search failed in half of the last {RECENT} iterations or more. Usual causes: "
        "a gradient that is mostly noise (larger --meta-batch-size or --episodes), curvature "
        "seen too coarsely (--fisher-fraction 1), rewards of very different size among tasks.",
    ),
    "certain": Alarm(
        _certain,
        "the policy has all but stopped exploring (σ below .02, or entropy below .02 nats). Usual "
        "causes: an outer step size that is too large, a reward that punishes exploration before "
        "adaptation; a smaller --inner-lr or --max-kl, or another seed, helps.",
    ),
    "wrong KL": Alarm(
        _wrong_kl,
        "the size of the meta-update is far from --max-kl. Usual causes: a line search that "
        "shrinks every step (noise, see the surrogate), or a step without one that trusts its "
        "quadratic model too far (a smaller --max-kl).",
    ),
    "hurts": Alarm(
        _hurts,
        f"adaptation makes most tasks worse, over {WINDOW} iterations. Usual causes: an inner "
        "step size that is too large, a first-order or naive gradient at a large --inner-lr, "
        "advantages of too few episodes.",
    ),
}
