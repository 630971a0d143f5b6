"""Meta-reinforcement learning on Gymnasium and MuJoCo: policies that adapt to a new task.

Public names are imported when they are first used: declaring a family loads neither torch nor
matplotlib nor TensorBoard.
"""

import importlib
from typing import TYPE_CHECKING

from metarl.support.distribution import warn_of_namesake

__version__ = "0.1.0"

warn_of_namesake()

if TYPE_CHECKING:
    from metarl.learners.few_shot import FewShotConfig as FewShotConfig
    from metarl.learners.few_shot import FewShotLearner as FewShotLearner
    from metarl.learners.learner import BaseLearner as BaseLearner
    from metarl.learners.learner import MetaLearner as MetaLearner
    from metarl.learners.maml import MAMLLearner
    from metarl.learners.maml_config import MAMLConfig
    from metarl.learners.registry import make_learner as make_learner
    from metarl.learners.rl2 import RL2Config as RL2Config
    from metarl.learners.rl2 import RL2Learner as RL2Learner
    from metarl.runs.loading import load as load
    from metarl.runs.run import train as train
    from metarl.support.errors import UsageError as UsageError
    from metarl.tasks.family import TaskFamily as TaskFamily
    from metarl.tasks.family import make_family as make_family

    # Assignments, because type checkers do not export names that an import changes.
    Config = MAMLConfig
    Learner = MAMLLearner

_DEFINED_IN = {
    "BaseLearner": "metarl.learners.learner",
    "Config": "metarl.learners.maml_config:MAMLConfig",
    "FewShotConfig": "metarl.learners.few_shot",
    "FewShotLearner": "metarl.learners.few_shot",
    "Learner": "metarl.learners.maml:MAMLLearner",
    "MetaLearner": "metarl.learners.learner",
    "RL2Config": "metarl.learners.rl2",
    "RL2Learner": "metarl.learners.rl2",
    "TaskFamily": "metarl.tasks.family",
    "UsageError": "metarl.support.errors",
    "load": "metarl.runs.loading",
    "make_family": "metarl.tasks.family",
    "make_learner": "metarl.learners.registry",
    "train": "metarl.runs.run",
}

__all__ = sorted(_DEFINED_IN)


def __getattr__(name: str) -> object:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module metarl has no attribute {name}")
    module, _, own_name = _DEFINED_IN[name].partition(":")
    value: object = getattr(importlib.import_module(module), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
