"""The learners by name: those of metarl, of other packages, and of the user."""

import inspect

from metarl.learners.base import BaseLearner
from metarl.learners.config import RunConfig, expect_any_config
from metarl.support.errors import UsageError
from metarl.support.parts import Parts

LEARNERS = Parts[type[BaseLearner]](
    "--learner",
    "metarl.learners",
    {
        "maml": "metarl.learners.maml:MAMLLearner",
        "rl2": "metarl.learners.rl2:RL2Learner",
        "few_shot": "metarl.learners.few_shot:FewShotLearner",
    },
    lambda part: isinstance(part, type) and issubclass(part, BaseLearner),
    "a subclass of metarl.BaseLearner",
    "MODULE:CLASS",
    needs={"Config": RunConfig},
)
"""A learner is imported when it is asked for."""


def make_learner(config: RunConfig, problem: object | None = None) -> BaseLearner:
    """The learner that the configuration names, before its first iteration.

    Args:
        problem: that of a few-shot learner whose configuration names none.

    Raises:
        UsageError: the learner takes no problem, or it lacks what every learner has.

    """
    expect_any_config(config, "metarl.make_learner")
    learner = LEARNERS.find(config.learner)
    if problem is None:
        made = learner(config)
    elif "problem" in inspect.signature(learner).parameters:
        made = learner(config, problem)  # type: ignore[call-arg]
    else:
        raise UsageError(f"--learner {config.learner} takes no problem: few_shot does")
    if not hasattr(made, "test_steps"):
        raise UsageError(f"--learner {config.learner} must set self.test_steps in __init__")
    return made
