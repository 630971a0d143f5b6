"""A declared MuJoCo family with its own XML: a block on a rail, in `slider.xml` beside this file.

Run it from this folder:

    metarl check slider:Slider-v0
    metarl train --family slider:Slider-v0 --iterations 20 --meta-batch-size 10

`MujocoFamily` documents what can be declared. `observe`, `reward` and `terminated` get the states
[..., n] before and after a control step, of one environment or of thousands, as NumPy or torch
arrays. They do not get the simulator and compute with arrays only. A task parameter that belongs to
the model, here the damping, is written into the model by `configure`. A parameter that belongs to
the reward, here the goal, is used in the reward alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.tasks.declaration import Array, MujocoFamily
from metarl.tasks.distributions import LogUniform, TaskDistribution, Uniform
from metarl.tasks.noise import Noise


@dataclass(frozen=True)
class Slider(MujocoFamily):
    """Move a block of unknown damping to an unknown goal: r = −|x − g| − .001 u²."""

    xml: ClassVar[str] = str(Path(__file__).with_name("slider.xml"))
    control_timestep: ClassVar[float] = 0.05  # s, five steps of the model
    model_fields: ClassVar[tuple[str, ...]] = ("dof_damping",)

    @property
    def tasks(self) -> TaskDistribution:
        """The goal, up to 1.5 times as far in the split `beyond`, and the damping of the rail."""
        return TaskDistribution(
            goal=Uniform(-1.0, 1.0, beyond=(-1.5, 1.5), unit="m"),
            damping=LogUniform(0.5, 4.0, unit="N s/m"),
        )

    @property
    def observation_space(self) -> spaces.Box:
        """Position and velocity of the block."""
        return spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def initial(self, noise: Noise, qpos: Array, qvel: Array) -> tuple[Array, Array]:
        """Starts near the middle, at rest."""
        return qpos + noise.uniform(-0.1, 0.1, 1), qvel

    def configure(self, model: Any, task: Mapping[str, Array]) -> Mapping[str, Array]:
        """The damping of the only degree of freedom: [..., 1]."""
        return {"dof_damping": task["damping"][..., None]}

    def observe(self, state: Any) -> Array:
        """Position and velocity, without the goal."""
        return array_namespace(state.qpos).concat([state.qpos, state.qvel], axis=-1)

    def reward(self, before: Any, control: Array, after: Any, task: Mapping[str, Array]) -> Array:
        """−|x − g| − .001 u²."""
        return -abs(after.qpos[..., 0] - task["goal"]) - 0.001 * control[..., 0] ** 2


gymnasium.register(
    "Slider-v0",
    entry_point="metarl.simulation.mujoco:MujocoEnv",
    max_episode_steps=50,
    kwargs={"family": "slider:Slider"},
)
