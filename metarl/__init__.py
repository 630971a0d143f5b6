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
    from metarl.evaluation.clips import show as show
    from metarl.learners.base import BaseLearner as BaseLearner
    from metarl.learners.few_shot import FewShotConfig as FewShotConfig
    from metarl.learners.few_shot import FewShotLearner as FewShotLearner
    from metarl.learners.learner import MetaLearner as MetaLearner
    from metarl.learners.maml import MAMLLearner
    from metarl.learners.maml_config import MAMLConfig
    from metarl.learners.presets import ALGORITHMS as ALGORITHMS
    from metarl.learners.registry import make_learner as make_learner
    from metarl.learners.rl2 import RL2Config as RL2Config
    from metarl.learners.rl2 import RL2Learner as RL2Learner
    from metarl.runs.loading import load as load
    from metarl.runs.report import evaluate as evaluate
    from metarl.runs.run import train as train
    from metarl.simulation.checker import check_family
    from metarl.studies.comparison import Comparison as Comparison
    from metarl.studies.comparison import compare as compare
    from metarl.studies.curves import plot as plot
    from metarl.studies.tuning import tune_config
    from metarl.support.errors import UsageError as UsageError
    from metarl.tasks.family import TaskFamily as TaskFamily
    from metarl.tasks.family import make_family as make_family
    from metarl.tasks.registry import registered_families

    # Assignments, because type checkers do not export names that an import changes.
    Config = MAMLConfig
    Learner = MAMLLearner
    check = check_family
    families = registered_families
    tune = tune_config

_DEFINED_IN = {
    "ALGORITHMS": "metarl.learners.presets",
    "BaseLearner": "metarl.learners.learner",
    "Comparison": "metarl.studies.comparison",
    "Config": "metarl.learners.maml_config:MAMLConfig",
    "FewShotConfig": "metarl.learners.few_shot",
    "FewShotLearner": "metarl.learners.few_shot",
    "Learner": "metarl.learners.maml:MAMLLearner",
    "MetaLearner": "metarl.learners.learner",
    "RL2Config": "metarl.learners.rl2",
    "RL2Learner": "metarl.learners.rl2",
    "TaskFamily": "metarl.tasks.family",
    "UsageError": "metarl.support.errors",
    "check": "metarl.simulation.checker:check_family",
    "compare": "metarl.studies.comparison",
    "evaluate": "metarl.runs.report",
    "families": "metarl.tasks.registry:registered_families",
    "load": "metarl.runs.loading",
    "make_family": "metarl.tasks.family",
    "make_learner": "metarl.learners.registry",
    "plot": "metarl.studies.curves",
    "show": "metarl.evaluation.clips",
    "train": "metarl.runs.run",
    "tune": "metarl.studies.tuning:tune_config",
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
