"""Meta-reinforcement learning on Gymnasium and MuJoCo: policies that adapt to a new task."""

from metarl.config import Config as Config
from metarl.errors import UsageError as UsageError
from metarl.learner import Learner as Learner
from metarl.tasks import make_family as make_family
from metarl.training import load as load
from metarl.training import train as train
