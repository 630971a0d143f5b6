"""Physics of declared MuJoCo families: a loop over MjData, or a batch on MuJoCo's own threads."""

import copy
import ctypes
import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np

from metarl.simulation.engine import mujoco
from metarl.simulation.physics import call, expect_shape
from metarl.simulation.picture import Picture, check_camera
from metarl.simulation.single import DeclaredEnv
from metarl.support.errors import UsageError, nearest
from metarl.tasks.declaration import Array, MujocoFamily, load_declaration
from metarl.tasks.noise import Noise, Purpose
from metarl.tasks.task import Tasks

try:
    from mujoco.batch import Batch
except ImportError:  # MuJoCo before 3.17
    Batch = None

logger = logging.getLogger(__name__)

_ASSETS = os.path.join(os.path.dirname(gymnasium.__file__), "envs", "mujoco", "assets")


@functools.cache
def _prepare_mujoco() -> None:
    # MuJoCo writes its warnings to the terminal and to MUJOCO_LOG.TXT in the working folder.
    # Unstable simulations are reported by the environments, from the warning counters.
    mujoco.set_mju_user_warning(lambda message: logger.debug("%s", message))
    if mujoco.get_mjcb_time() is None:  # keep a clock that the user has set
        stop_clock()


def stop_clock() -> None:
    """Removes the clock with which MuJoCo's Python package times every stage of every step.

    `MjData.timer` then stays at 0, and steps of small models take up to a fifth less time. The
    package can only replace its clock, so this clears the variable of the C library.
    `mujoco.set_mjcb_time(None)` restores the clock.
    """
    for library in Path(mujoco.__path__[0]).glob("libmujoco*"):
        ctypes.c_void_p.in_dll(ctypes.CDLL(str(library)), "mjcb_time").value = None


class MujocoModel:
    """What all physics of a model share: the compiled model, its time step and its actuators."""

    def __init__(self, family: MujocoFamily):
        _prepare_mujoco()
        self._family = family
        name = type(family).__name__
        if not hasattr(family, "control_timestep"):
            raise UsageError(f"{name} needs control_timestep, in seconds")
        path = os.path.join(_ASSETS, family.xml)  # an absolute family.xml stays as it is
        if not os.path.exists(path):
            raise UsageError(
                f"{name}: there is no model {path}; give the full path of your own model, as "
                'str(Path(__file__).with_name("my.xml"))'
            )
        try:
            self.model = _compiled(path, "cfrc_ext" in family.fields)
        except ValueError as error:
            raise UsageError(f"{name}: {path}: {' '.join(str(error).split())}") from error
        self._check()
        steps = family.control_timestep / self.model.opt.timestep
        self.substeps = round(steps)
        if abs(steps - self.substeps) > 1e-9 or self.substeps < 1:
            raise UsageError(
                f"{name}: control_timestep {family.control_timestep} is not a "
                f"multiple of the model's {self.model.opt.timestep}"
            )
        low, high = self.model.actuator_ctrlrange.T
        self._centre, self._half = (low + high) / 2, (high - low) / 2
        bound = np.full(self.model.nu, family.action_scale, np.float32)
        self.action_space = gymnasium.spaces.Box(-bound, bound)

    def _check(self) -> None:
        """Checks for mistakes that would otherwise pass silently.

        Raises:
            UsageError: an actuator has no range, a field is unknown, or there is a `configure`
                without `model_fields`.

        """
        family, name = self._family, type(self._family).__name__
        if not self.model.actuator_ctrllimited.all():
            i = int(np.flatnonzero(~self.model.actuator_ctrllimited.astype(bool))[0])
            raise UsageError(
                f"{name}: actuator {i} of {family.xml} needs a ctrlrange to scale actions to"
            )
        for kind, holder, fields in (
            ("fields", mujoco.MjData, family.fields),
            ("model_fields", mujoco.MjModel, family.model_fields),
        ):
            for field in fields:
                if not hasattr(holder, field):
                    hint = nearest(field, dir(holder))
                    raise UsageError(
                        f"{name}: {kind} has {field}, which MuJoCo does not know{hint}"
                    )
        overridden = type(family).configure is not MujocoFamily.configure
        if overridden and not family.model_fields:
            raise UsageError(
                f"{name} has configure but no model_fields: list the fields that it changes"
            )

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Actions in ±action_scale as actuator controls, clipped to their range: [n, nu]."""
        scaled = np.clip(actions / np.float64(self._family.action_scale), -1, 1)
        controls: np.ndarray = self._centre + scaled * self._half
        return controls

    def _configured(self, tasks: Tasks) -> Mapping[str, np.ndarray]:
        """The family's model fields under the tasks: [tasks, ...]."""
        names = self._family.model_fields
        own = SimpleNamespace(**{name: getattr(self.model, name).copy() for name in names})
        configured = call(self._family, "configure", own, tasks) if names else {}
        if set(configured) != set(names):
            raise UsageError(
                f"{type(self._family).__name__}: configure returns {sorted(configured)}, "
                f"but model_fields has {sorted(names)}"
            )
        number = len(next(iter(tasks.values())))
        for name in names:
            expected = (number, *getattr(self.model, name).shape)
            if np.shape(configured[name]) != expected:
                raise UsageError(
                    f"{type(self._family).__name__}: configure returns {name} of shape "
                    f"{np.shape(configured[name])}, not {expected}"
                )
        return configured

    def _initial(self, streams: Array, qpos: Array, qvel: Array) -> tuple[Array, Array]:
        """First states that the family draws, given those of the models: [n, nq], [n, nv]."""
        noise = Noise(streams, Purpose.RESET)
        first: tuple[Array, Array] = call(self._family, "initial", noise, qpos, qvel)
        for values, own in zip(first, (qpos, qvel), strict=True):
            expect_shape(self._family, "initial", values, own.shape)
        return first


def _compiled(path: str, contact_forces: bool) -> mujoco.MjModel:
    """Compiles the model, with a sensor for `contact_forces` if these are needed.

    MuJoCo computes the contact forces on bodies, `cfrc_ext`, only if a sensor needs them.
    """
    if not contact_forces:
        return mujoco.MjModel.from_xml_path(path)
    spec = mujoco.MjSpec.from_file(path)
    site = spec.bodies[1].add_site(name="metarl_force")
    spec.add_sensor(
        type=mujoco.mjtSensor.mjSENS_FORCE, objtype=mujoco.mjtObj.mjOBJ_SITE, objname=site.name
    )
    return spec.compile()


class LoopPhysics(MujocoModel):
    """One MjData per environment, stepped one after the other."""

    def __init__(self, family: MujocoFamily, number: int):
        super().__init__(family)
        own = bool(family.model_fields)  # each has its own model if models differ
        self.models = [copy.copy(self.model) if own else self.model for _ in range(number)]
        self.data = [mujoco.MjData(model) for model in self.models]

    def begin(self, tasks: Tasks, streams: np.ndarray) -> None:
        """Writes the tasks into the models, updates derived constants, and resets."""
        for name, values in self._configured(tasks).items():
            for model, value in zip(self.models, values, strict=True):
                getattr(model, name)[:] = value
        for model, data in zip(self.models, self.data, strict=True):
            if self._family.model_fields:
                mujoco.mj_setConst(model, mujoco.MjData(model))
            mujoco.mj_resetData(model, data)
        qpos, qvel = self._initial(
            streams, *(np.stack([getattr(data, f) for data in self.data]) for f in ("qpos", "qvel"))
        )
        for i, (model, data) in enumerate(zip(self.models, self.data, strict=True)):
            data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
            mujoco.mj_forward(model, data)

    def step(
        self, actions: np.ndarray, active: np.ndarray, step: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Advances each by one control step; a failed one returns to the state before it."""
        control = self.control(actions)
        failed = np.zeros(len(self.data), bool)
        names = dict.fromkeys((*self._family.fields, "qpos", "qvel"))  # each once
        for i in np.flatnonzero(active):
            data = self.data[i]
            time, before = data.time, {name: np.copy(getattr(data, name)) for name in names}
            data.ctrl[:] = control[i]
            mujoco.mj_step(self.models[i], data, nstep=self.substeps)
            if data.warning.number[_FATAL].any():
                failed[i] = True
                data.time = time
                for name, values in before.items():
                    getattr(data, name)[...] = values
        return control, failed

    def state(self) -> SimpleNamespace:
        """A copy of the declared fields."""
        fields = self._family.fields
        return SimpleNamespace(
            **{name: np.stack([getattr(data, name) for data in self.data]) for name in fields}
        )


class BatchPhysics(MujocoModel):
    """All environments in one `mujoco.batch.Batch`, bit-equal to a loop over MjData."""

    def __init__(self, family: MujocoFamily, number: int, threads: int):
        super().__init__(family)
        self._batch = Batch(self.model, number, threads)
        names = dict.fromkeys((*family.fields, "qpos", "qvel"))  # each once
        self._live = {name: self._batch.bind(name) for name in names}
        self._qpos, self._qvel, self._ctrl = map(self._batch.bind, ("qpos", "qvel", "ctrl"))
        self.model_fields = {name: self._batch.expand(name) for name in family.model_fields}
        self._warnings = self._fatal.copy()
        # The states before and after the last step; the two buffers are written in turn.
        self._before, self._after = (
            {name: np.array(field) for name, field in self._live.items()} for _ in range(2)
        )

    def begin(self, tasks: Tasks, streams: np.ndarray) -> None:
        """Writes the tasks into the models, updates derived constants, and resets."""
        for name, values in self._configured(tasks).items():
            self.model_fields[name][:] = values
        if self.model_fields:
            self._batch.set_const()
        self._batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[:], self._qvel[:] = self._initial(streams, self._qpos.copy(), self._qvel.copy())
        self._batch.forward()
        self._warnings = self._fatal.copy()
        self._record()

    def step(
        self, actions: np.ndarray, active: np.ndarray, step: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Advances the environments by one control step; failed ones keep their old state."""
        control = self.control(actions)
        ids = None if active.all() else np.flatnonzero(active)
        if ids is None:
            self._ctrl[:] = control
        else:
            self._ctrl[ids] = control[ids]
        self._batch.step(ids, self.substeps)
        failed: np.ndarray | None = None
        # MuJoCo resets an unstable simulation silently; only its warning counters show it.
        if not np.array_equal(self._fatal, self._warnings):
            failed = np.any(self._fatal > self._warnings, axis=1)
            self._qpos[failed] = self._after["qpos"][failed]
            self._qvel[failed] = self._after["qvel"][failed]
            self._warnings = self._fatal.copy()
        self._record()
        if failed is not None:
            for name, values in self._after.items():
                values[failed] = self._before[name][failed]
        return control, failed

    def state(self) -> SimpleNamespace:
        """The declared fields after the last step."""
        return SimpleNamespace(**{name: self._after[name] for name in self._family.fields})

    def _record(self) -> None:
        self._before, self._after = self._after, self._before
        for name, field in self._live.items():
            np.copyto(self._after[name], field)

    @property
    def _fatal(self) -> np.ndarray:
        """Number of fatal warnings of each kind since the reset: [n, 4]."""
        numbers: np.ndarray = self._batch.warning[:, _FATAL, 1]
        return numbers


_FATAL = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
"""BADQPOS, BADQVEL, BADQACC, BADCTRL: after any of these the state is invalid."""


class MujocoEnv(DeclaredEnv):
    """Entry point of a single environment; `options` are those of the family."""

    def __init__(
        self,
        family: str | MujocoFamily,
        render_mode: str | None = None,
        camera_name: str | None = None,
        **options: object,
    ):
        """Renders from the model's camera of that name, or from one that sees the whole body.

        Raises:
            UsageError: there is no such camera.

        """
        declaration = load_declaration(family, options)
        physics = LoopPhysics(declaration, 1)
        super().__init__(declaration, physics, render_mode)
        self.model, self.data = physics.models[0], physics.data[0]
        check_camera(self.model, camera_name, type(declaration).__name__)
        self._camera_name = camera_name
        self._picture: Picture | None = None

    def render(self) -> np.ndarray | None:
        """The scene: [240, 320, 3].

        Raises:
            UsageError: MuJoCo cannot draw on this machine.

        """
        if self.render_mode is None:
            return None
        if self._picture is None:
            self._picture = Picture(self.model, self.data, self._camera_name)
        return self._picture.draw(self.data)

    def close(self) -> None:
        """Frees the renderer."""
        if self._picture is not None:
            self._picture.close()


def make_physics(family: MujocoFamily, number: int, threads: int) -> BatchPhysics | LoopPhysics:
    """Makes a batch, or a loop if MuJoCo has no batch engine; 0 threads use every core."""
    if Batch is not None:
        return BatchPhysics(family, number, threads)
    _warn_of_missing_batch()
    return LoopPhysics(family, number)


@functools.cache
def _warn_of_missing_batch() -> None:
    logger.warning(
        "MuJoCo %s has no batch engine, which 3.17 introduced: environments are stepped one by one",
        mujoco.__version__,
    )
