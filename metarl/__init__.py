"""Meta-reinforcement learning on Gymnasium and MuJoCo: policies that adapt to a new task."""

from metarl.learners.config import Config as Config
from metarl.learners.maml import Learner as Learner
from metarl.runs.run import load as load
from metarl.runs.run import train as train
from metarl.support.errors import UsageError as UsageError
from metarl.tasks.family import make_family as make_family
