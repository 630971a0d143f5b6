"""The learners by name: those of metarl, of other packages, and of the user."""

from metarl.learners.config import RunConfig
from metarl.learners.learner import BaseLearner
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
)
"""A learner is imported when it is asked for."""


def make_learner(config: RunConfig) -> BaseLearner:
    """The learner that the configuration names, before its first iteration."""
    return LEARNERS.find(config.learner)(config)
