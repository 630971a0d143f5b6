"""The learners by name: those of metarl, and those that other packages announce."""

import importlib
import importlib.metadata
import inspect

from metarl.learners.config import RunConfig
from metarl.learners.learner import BaseLearner
from metarl.support.errors import UsageError, nearest
from metarl.support.modules import import_object

ENTRY_POINT_GROUP = "metarl.learners"

LEARNERS = {
    "maml": "metarl.learners.maml:MAMLLearner",
    "rl2": "metarl.learners.rl2:RL2Learner",
    "few_shot": "metarl.learners.few_shot:FewShotLearner",
}
"""MODULE:CLASS by name: a learner is imported when it is asked for."""


def known_learners() -> dict[str, str]:
    """MODULE:CLASS by name, of installed packages too; metarl's own names come first."""
    announced = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    return {point.name: point.value for point in announced} | LEARNERS


def find_learner(name: str) -> type[BaseLearner]:
    """The learner of that name, or of MODULE:CLASS.

    Raises:
        UsageError: there is no such learner; names those that there are.

    """
    known = known_learners()
    if name not in known and ":" not in name:
        raise UsageError(
            f"--learner {name} must be one of {', '.join(known)}, or MODULE:CLASS"
            f"{nearest(name, known)}"
        )
    learner = import_object(known.get(name, name), "--learner")
    if not (isinstance(learner, type) and issubclass(learner, BaseLearner)):
        raise UsageError(f"--learner {name} is not a subclass of metarl.BaseLearner")
    return learner


def make_learner(config: RunConfig, problem: object | None = None) -> BaseLearner:
    """The learner that the configuration names, before its first iteration.

    Args:
        problem: that of a few-shot learner whose configuration names none.

    Raises:
        UsageError: the learner takes no problem.

    """
    learner = find_learner(config.learner)
    if problem is None:
        return learner(config)
    if "problem" not in inspect.signature(learner).parameters:
        raise UsageError(f"--learner {config.learner} takes no problem: few_shot does")
    return learner(config, problem)  # type: ignore[call-arg]
