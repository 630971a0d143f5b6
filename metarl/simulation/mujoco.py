"""Declared MuJoCo families: one environment over MjData, or a batch on MuJoCo's own threads."""

import functools
import logging
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gymnasium
import mujoco
import numpy as np

from metarl.declaration import MujocoFamily, load_declaration
from metarl.errors import UsageError
from metarl.simulation.declared import DeclaredEnv, DeclaredVectorEnv, Ids
from metarl.tasks import Tasks

try:
    from mujoco.batch import Batch
except ImportError:  # MuJoCo before 3.17
    Batch = None

logger = logging.getLogger(__name__)

_ASSETS = os.path.join(os.path.dirname(gymnasium.__file__), "envs", "mujoco", "assets")


@functools.cache
def _silence_mujoco() -> None:
    # MuJoCo writes its warnings to the terminal and to MUJOCO_LOG.TXT in the working folder.
    # Unstable simulations are reported by the environments, from the warning counters.
    mujoco.set_mju_user_warning(lambda message: logger.debug("%s", message))


class _Model:
    """What the two kinds of physics share: the compiled model, its time step and its actuators."""

    def __init__(self, family: MujocoFamily):
        _silence_mujoco()
        self._family = family
        path = os.path.join(_ASSETS, family.xml)  # an absolute family.xml stays as it is
        if not os.path.exists(path):
            raise UsageError(f"{type(family).__name__}: there is no model {path}")
        self.model = mujoco.MjModel.from_xml_path(path)
        steps = family.control_timestep / self.model.opt.timestep
        self.substeps = round(steps)
        if abs(steps - self.substeps) > 1e-9 or self.substeps < 1:
            raise UsageError(
                f"{type(family).__name__}: control_timestep {family.control_timestep} is not a "
                f"multiple of the model's {self.model.opt.timestep}"
            )
        low, high = self.model.actuator_ctrlrange.T
        self._centre, self._half = (low + high) / 2, (high - low) / 2
        bound = np.full(self.model.nu, family.action_scale, np.float32)
        self.action_space = gymnasium.spaces.Box(-bound, bound)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Actions in ±action_scale as actuator controls, clipped to their range: [n, nu]."""
        scaled = np.clip(actions / np.float64(self._family.action_scale), -1, 1)
        controls: np.ndarray = self._centre + scaled * self._half
        return controls

    def configure(self, ids: np.ndarray, tasks: Tasks) -> None:
        """Tasks of these families act through the reward alone."""


class LoopPhysics(_Model):
    """One MjData per environment, stepped one after the other."""

    def __init__(self, family: MujocoFamily, number: int):
        super().__init__(family)
        self.data = [mujoco.MjData(self.model) for _ in range(number)]

    def reset(self, ids: np.ndarray, generators: Sequence[np.random.Generator]) -> None:
        """First states, as the family draws them."""
        for i, generator in zip(ids, generators, strict=True):
            data = self.data[i]
            mujoco.mj_resetData(self.model, data)
            data.qpos[:], data.qvel[:] = self._family.initial(
                generator, data.qpos.copy(), data.qvel.copy()
            )
            mujoco.mj_forward(self.model, data)

    def step(self, ids: Ids, controls: np.ndarray) -> np.ndarray:
        """Advances each by one control step; a failed one returns to the state before it."""
        selected = self.data if ids is None else [self.data[i] for i in ids]
        failed = np.zeros(len(selected), bool)
        for k, (data, control) in enumerate(zip(selected, controls, strict=True)):
            before = (data.time, data.qpos.copy(), data.qvel.copy())
            data.ctrl[:] = control
            mujoco.mj_step(self.model, data, nstep=self.substeps)
            if data.warning.number[_FATAL].any():
                failed[k] = True
                data.time, data.qpos[:], data.qvel[:] = before
        return failed

    def state(self) -> SimpleNamespace:
        """A copy of the declared fields."""
        fields = self._family.fields
        return SimpleNamespace(
            **{name: np.stack([getattr(data, name) for data in self.data]) for name in fields}
        )


class BatchPhysics(_Model):
    """All environments in one `mujoco.batch.Batch`, bit-equal to a loop over MjData."""

    def __init__(self, family: MujocoFamily, number: int, threads: int):
        super().__init__(family)
        self._batch = Batch(self.model, number, threads)
        self._fields = {name: self._batch.bind(name) for name in family.fields}
        self._qpos, self._qvel, self._ctrl = map(self._batch.bind, ("qpos", "qvel", "ctrl"))
        self._warnings = self._warning_numbers()

    def reset(self, ids: np.ndarray, generators: Sequence[np.random.Generator]) -> None:
        """First states, as the family draws them."""
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for i, generator in zip(ids, generators, strict=True):
            self._qpos[i], self._qvel[i] = self._family.initial(
                generator, self._qpos[i].copy(), self._qvel[i].copy()
            )
        self._batch.forward(ids)
        self._warnings = self._warning_numbers()

    def step(self, ids: Ids, controls: np.ndarray) -> np.ndarray:
        """Advances the environments by one control step; failed ones keep their old state."""
        before = self._qpos.copy(), self._qvel.copy()
        self._ctrl[slice(None) if ids is None else ids] = controls
        self._batch.step(ids, self.substeps)
        # MuJoCo resets an unstable simulation without a word; only its counters tell.
        warnings = self._warning_numbers()
        failed = warnings > self._warnings
        if failed.any():
            self._qpos[failed], self._qvel[failed] = before[0][failed], before[1][failed]
            self._warnings = warnings
        return failed if ids is None else failed[ids]

    def state(self) -> SimpleNamespace:
        """A copy of the declared fields."""
        return SimpleNamespace(**{name: field.copy() for name, field in self._fields.items()})

    def _warning_numbers(self) -> np.ndarray:
        numbers: np.ndarray = self._batch.warning[:, _FATAL, 1].sum(axis=1)
        return numbers


_FATAL = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
"""BADQPOS, BADQVEL, BADQACC, BADCTRL: after these the state is not the physics' any more."""


class MujocoEnv(DeclaredEnv):
    """Entry point of a single environment; `options` are those of the family."""

    def __init__(self, family: str | MujocoFamily, **options: Any):
        declaration = load_declaration(family, options)
        physics = LoopPhysics(declaration, 1)
        super().__init__(declaration, physics)
        self.model, self.data = physics.model, physics.data[0]


class MujocoVectorEnv(DeclaredVectorEnv):
    """Entry point of a vector environment; `options` are those of the family."""

    def __init__(
        self,
        num_envs: int,
        family: str | MujocoFamily,
        max_episode_steps: int | None = None,
        threads: int = 0,
        **options: Any,
    ):
        """`threads`: MuJoCo's; 0 takes every core."""
        declaration = load_declaration(family, options)
        physics: BatchPhysics | LoopPhysics
        if Batch is None:
            _say_that_there_is_no_batch()
            physics = LoopPhysics(declaration, num_envs)
        else:
            physics = BatchPhysics(declaration, num_envs, threads)
        super().__init__(declaration, physics, num_envs, max_episode_steps)


@functools.cache
def _say_that_there_is_no_batch() -> None:
    logger.warning(
        "MuJoCo %s has no batch engine (3.17 and later have): environments are stepped one by one",
        mujoco.__version__,
    )
