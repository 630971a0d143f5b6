"""Starter files for a new task family and its test."""

import importlib.util
import keyword
import re
import sys
from pathlib import Path
from string import Template

from metarl.support.errors import UsageError
from metarl.support.files import replace_durably

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

MUJOCO_FAMILY = Template(
    '''from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from array_api_compat import array_namespace
from gymnasium.spaces import Box

from metarl.tasks.declaration import MujocoFamily
from metarl.tasks.distributions import TaskDistribution, Uniform


@dataclass(frozen=True)
class $name(MujocoFamily):
    """A block on a rail of unknown friction goes to a place that it does not see.

    The functions take arrays [..., n], of one environment or of thousands at once.
    """

    xml = str(Path(__file__).with_name("$module.xml"))
    control_timestep = 0.05  # s, five steps of the model
    fields = ("qpos", "qvel")  # of MjData: what the functions read
    model_fields = ("dof_damping",)  # of MjModel: what configure gives

    @property
    def tasks(self):
        return TaskDistribution(
            place=Uniform(-1.0, 1.0, unit="m"), damping=Uniform(0.5, 4.0, unit="N s/m")
        )

    @property
    def observation_space(self):
        return Box(-np.inf, np.inf, (2,), np.float64)

    def configure(self, model, task):
        return {"dof_damping": task["damping"][..., None]}

    def observe(self, state):
        return array_namespace(state.qpos).concat([state.qpos, state.qvel], axis=-1)

    def reward(self, before, control, after, task):
        return -abs(after.qpos[..., 0] - task["place"])


gymnasium.register(
    "$name-v0",
    entry_point="metarl.simulation.mujoco:MujocoEnv",
    max_episode_steps=50,
    kwargs={"family": "$module:$name"},
)
'''
)

MODEL = Template(
    """<mujoco model="$module">
  <option timestep="0.01"/>
  <worldbody>
    <light pos="0 0 3"/>
    <body name="block" pos="0 0 0.1">
      <joint name="slide" type="slide" axis="1 0 0" range="-2 2" limited="true"/>
      <geom type="box" size="0.1 0.1 0.1" mass="1"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="slide" ctrlrange="-5 5"/>
  </actuator>
</mujoco>
"""
)

TEST = Template(
    """from metarl import Config, Learner
from metarl.simulation.checker import check_family
from metarl.tasks.family import make_family

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


def _is_installed(module: str, folder: Path) -> bool:
    """Whether there is a module of the name that does not lie in the folder."""
    found = importlib.util.find_spec(module)
    origin = None if found is None else found.origin
    return origin is not None and Path(origin).parent != folder.resolve()


def write_family(name: str, folder: Path, mujoco: bool = False) -> list[Path]:
    """Writes the family `name` and its test into the folder, as modules in snake case.

    Returns:
        The paths of the family, of its model if `mujoco`, and of the test.

    Raises:
        UsageError: the name is not a class name, a file already exists, or the folder cannot be
            written; nothing is written.

    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
        raise UsageError(f"family name {name} must be a class name, such as PushToGoal")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()
    if keyword.iskeyword(module):
        raise UsageError(f"family name {name}: {module} is a Python keyword; choose another name")
    if module in sys.stdlib_module_names or _is_installed(module, folder):
        raise UsageError(
            f"family name {name}: {module}.py would hide another module {module}; choose another "
            "name"
        )
    templates = {f"{module}.py": MUJOCO_FAMILY if mujoco else FAMILY}
    if mujoco:
        templates[f"{module}.xml"] = MODEL
    templates[f"test_{module}.py"] = TEST
    paths = [folder / file for file in templates]
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} already exists; nothing was written")
    written: list[Path] = []
    try:
        for path, template in zip(paths, templates.values(), strict=True):
            replace_durably(path, template.substitute(name=name, module=module).encode())
            written.append(path)
    except UsageError:
        for path in written:
            path.unlink()
        raise
    return paths
