"""By what a run is judged, and why it ends before its last iteration."""

from collections.abc import Collection, Sequence

from metarl.evaluation.evaluation import judging_split
from metarl.learners.base import BaseLearner
from metarl.support.text import counted


def held_out_tag(learner: BaseLearner) -> str:
    """The metric by which a run is judged: of `judging_split`, after the last inner step.

    No metric has this name where nothing is evaluated.
    """
    return f"{judging_split(learner.eval_splits)}/step_{learner.test_steps}/mean"


def best_iteration(
    learner: BaseLearner, history: Sequence[dict[str, float]], saved: Collection[int]
) -> int | None:
    """The iteration with the best measure on held-out tasks, of those that have a checkpoint.

    None if none of them was evaluated.
    """
    tag = held_out_tag(learner)
    evaluated = [m for m in history if tag in m and m["iteration"] in saved]
    if not evaluated:
        return None
    best = max if learner.higher_is_better else min
    return int(best(evaluated, key=lambda metrics: metrics[tag])["iteration"])


def reason_to_stop(history: Sequence[dict[str, float]], learner: BaseLearner) -> str | None:
    """Why the run ends after the newest iteration of its history; None if it goes on."""
    config, tag, newest = learner.config, held_out_tag(learner), history[-1]
    if config.time_limit and newest["seconds"] >= 60 * config.time_limit:
        return f"{newest['seconds'] / 60:.1f} minutes of training: --time-limit ends the run"
    if tag not in newest:
        return None
    sign = 1 if learner.higher_is_better else -1
    values = [sign * metrics[tag] for metrics in history if tag in metrics]
    if config.target is not None and values[-1] >= sign * config.target:
        return f"{newest[tag]:.4g} on held-out tasks: --target {config.target:g} is reached"
    since = len(values) - 1 - max(range(len(values)), key=values.__getitem__)
    if 0 < config.patience <= since:
        times = counted(since, "evaluation")
        return f"no better on held-out tasks in {times}: --patience ends the run"
    return None
