"""A starter file for a task family of one's own, and its test."""

import keyword
import re
from pathlib import Path
from string import Template

from metarl.errors import UsageError

FAMILY = Template(
    '''import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict


class $name(gymnasium.Env):
    """A point on a line goes to a place that it does not see."""

    def __init__(self):
        self.observation_space = Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = Box(-1, 1, (1,), np.float32)
        self.task_space = Dict(place=Box(-1.0, 1.0, ()))  # m
        self.task = {"place": 0.0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.zeros(1, np.float32)
        return self.x, {}

    def step(self, action):
        self.x = self.x + 0.1 * action
        return self.x, -abs(float(self.x[0] - self.task["place"])), False, False, {}


gymnasium.register("$name-v0", entry_point="$module:$name", max_episode_steps=30)
'''
)

TEST = Template(
    """from metarl import Config, Learner
from metarl.check import check_family
from metarl.tasks import make_family

FAMILY = "$module:$name-v0"


def test_the_family_keeps_its_contract():
    faults = [finding for finding in check_family(make_family(FAMILY)) if not finding.passed]
    assert not faults


def test_it_trains():
    learner = Learner(Config(FAMILY, meta_batch_size=2, episodes=2, horizon=5))
    metrics = learner.iterate()
    assert metrics["env_steps"] == 2 * 2 * 2 * 5
"""
)


def write_family(name: str, folder: Path) -> tuple[Path, Path]:
    """Writes `name` as a module in snake case, and its test, into the folder.

    Returns:
        The two files.

    Raises:
        UsageError: the name is not one of a class, or a file is there already; nothing is written.

    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
        raise UsageError(f"family name {name} must be that of a class, as in PushToGoal")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()
    if keyword.iskeyword(module):
        raise UsageError(f"family name {name}: {module} is a word of Python's, choose another")
    paths = folder / f"{module}.py", folder / f"test_{module}.py"
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} is there already: nothing was written")
    for path, template in zip(paths, (FAMILY, TEST), strict=True):
        path.write_text(template.substitute(name=name, module=module))
    return paths
