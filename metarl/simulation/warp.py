"""Physics of declared MuJoCo families on a GPU, by mujoco-warp.

Without a GPU warp compiles its kernels for the CPU: the same results, slowly, which is for tests.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import mujoco_warp
import numpy as np
import torch
import warp
from mujoco_warp import OverflowType
from torch import Tensor

from metarl.simulation.engine import mujoco
from metarl.simulation.mujoco import MujocoModel
from metarl.simulation.physics import WarpOptions
from metarl.support.errors import UsageError, nearest
from metarl.support.graphs import launched
from metarl.tasks.declaration import MujocoFamily

logger = logging.getLogger(__name__)

LARGEST = 1e10
"""Of qpos, qvel and qacc: mjMAXVAL, beyond which MuJoCo too calls a simulation unstable."""

INTEGRATED = ("qpos", "qvel", "act", "qacc_warmstart", "time")
"""What a step depends on, beside the model and the controls: where resting worlds return to."""

DERIVED = (
    *("body_subtreemass", "body_invweight0", "dof_invweight0"),
    *("tendon_length0", "tendon_invweight0", "actuator_acc0", "geom_aabb", "geom_rbound"),
    *("eq_data", "cam_pos0", "cam_poscom0", "cam_mat0"),
    *("light_pos0", "light_poscom0", "light_dir0"),
)
"""What `set_const` writes. With one row for all worlds they would write over one another."""

ROOM = {
    "contacts": OverflowType.BROADPHASE | OverflowType.NARROWPHASE | OverflowType.CCD,
    "constraints": OverflowType.NEFC | OverflowType.NJMAX_NNZ,
}
"""What was dropped, by what more room of helps."""
LOST = OverflowType.HFIELD | OverflowType.NVMAX
"""What no size helps against."""
UNCONVERGED = OverflowType.ITERATIONS | OverflowType.LS_ITERATIONS
"""A solver that stopped at the model's limit of iterations, as MuJoCo's does without a word."""

SECONDS_UNTIL_TOLD = 5.0
"""After which the first steps are said to wait for the compiler; with a warm cache they take 1."""


class WarpPhysics(MujocoModel):
    """One world per environment, float32, stepped at once by a captured graph of warp's kernels.

    All worlds are stepped, resting ones too; these return to the state that they rest in.
    """

    def __init__(
        self, family: MujocoFamily, number: int, device: torch.device, options: WarpOptions
    ):
        """Worlds of the model, until `begin` without tasks.

        Raises:
            UsageError: mujoco-warp has no such model, state or field of the model for each world.

        """
        super().__init__(family)
        warp.config.log_level = warp.LOG_WARNING  # it prints a line for each kernel
        warp.init()  # type: ignore[no-untyped-call]
        name, model = type(family).__name__, self.model
        if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
            logger.info("%s: mujoco-warp has no PGS solver; Newton's method takes its place", name)
            model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
        self._device, self._number = device, number
        self._range = [torch.from_numpy(x).to(device) for x in (self._centre, self._half)]
        contacts = options.contacts or family.contacts
        constraints = options.constraints or family.constraints
        own = dict.fromkeys((*family.model_fields, *DERIVED), number) if family.model_fields else {}
        with warp.ScopedDevice(warp.device_from_torch(device)):
            try:
                self._model = mujoco_warp.put_model(model, own)
                self._data = mujoco_warp.make_data(
                    model, number, nconmax=contacts or None, njmax=constraints or None
                )
            except (NotImplementedError, ValueError) as error:
                raise UsageError(f"--simulation warp cannot step {name}: {error}") from error
        self._model.opt.warn_overflow = 0  # `expect_no_overflow` says it
        self._model.opt.deterministic = options.deterministic
        self._graph: Any = None
        self._told = OverflowType(0)
        self._integrated = {n: self._live(n) for n in INTEGRATED if getattr(self._data, n).size}
        self._ctrl, self._qacc = self._live("ctrl"), self._live("qacc")
        self._overflow = self._live("overflow")
        self._fields = {field: self._live(field) for field in family.fields}
        self._recorded = {field: x.clone() for field, x in self._fields.items()}

    def prepare(self) -> None:
        """Compiles and captures a step, once, which may take minutes."""
        if self._graph is None:
            with self._eager():
                self._capture()

    def begin(self, tasks: dict[str, Tensor], streams: Tensor) -> None:
        """Writes the tasks into the models, updates derived constants, and resets."""
        with self._eager():
            if self._family.model_fields:
                self._configure(tasks)
            mujoco_warp.reset_data(self._model, self._data)
        qpos, qvel = (self._integrated[name] for name in ("qpos", "qvel"))
        for live, first in zip(
            (qpos, qvel), self._initial(streams, qpos.double(), qvel.double()), strict=True
        ):
            live.copy_(first)
        with self._eager():
            mujoco_warp.forward(self._model, self._data)
        for field, recorded in self._recorded.items():
            recorded.copy_(self._fields[field])

    def step(self, actions: Tensor, active: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Advances all worlds; those that are not active or fail return to the state before."""
        control = self._control(actions)
        before = {name: live.clone() for name, live in self._integrated.items()}
        self._ctrl.copy_(torch.where(active.unsqueeze(-1), control, 0.0))
        launched(self._launch)
        moved = active.clone()
        for values in (self._integrated["qpos"], self._integrated["qvel"], self._qacc):
            moved &= (values.abs() <= LARGEST).all(-1)  # False for NaN
        for name, live in self._integrated.items():
            live.copy_(_where(moved, live, before[name]))
        for field, recorded in self._recorded.items():
            recorded.copy_(_where(moved, self._fields[field], recorded))
        return control, active & ~moved

    def state(self) -> SimpleNamespace:
        """A copy of the declared fields after the last step, float32."""
        return SimpleNamespace(**{field: x.clone() for field, x in self._recorded.items()})

    def _control(self, actions: Tensor) -> Tensor:
        """As `control`, on the device: [n, nu]."""
        centre, half = self._range
        return centre + (actions.double() / self._family.action_scale).clamp(-1, 1) * half

    def expect_no_overflow(self, failed: Tensor) -> None:
        """Checks that no contact and no constraint was dropped since `begin`.

        Not in worlds that failed, [n] bool: diverging ones drop constraints on their way. Other
        bounds of mujoco-warp, which make numbers rougher, are told once.

        Raises:
            UsageError: there was no room for one; names the option that gives more, if one does.

        """
        overflow = torch.where(failed, 0, self._overflow)
        found = int(np.bitwise_or.reduce(overflow.cpu().numpy()))
        if not found:
            return
        sizes = {"contacts": self._data.naconmax // self._number, "constraints": self._data.njmax}
        room = {kind: size for kind, size in sizes.items() if found & ROOM[kind]}
        if not room:
            self._tell(OverflowType(found & ~UNCONVERGED))
            return
        had = " and ".join(f"{number} {kind}" for kind, number in room.items())
        more = " ".join(f"--warp-{kind} {2 * number}" for kind, number in room.items())
        raise UsageError(
            f"{type(self._family).__name__}: an environment has room for {had}, and more arose, "
            f"which were dropped: give {more}"
        )

    def _tell(self, overflow: OverflowType) -> None:
        """Tells once of each bound that was reached and that no option widens.

        Raises:
            UsageError: something was dropped.

        """
        name = type(self._family).__name__
        if overflow & LOST:
            raise UsageError(
                f"{name}: mujoco-warp dropped something ({(overflow & LOST).name}), and no option "
                "gives it room: use --simulation batch"
            )
        if new := overflow & ~self._told:
            self._told |= new
            logger.warning("%s: mujoco-warp reached a bound (%s)", name, new.name)

    def _live(self, name: str) -> Tensor:
        """A field of all worlds, in the shape that MuJoCo has it: [n, ...]; shares memory.

        Raises:
            UsageError: mujoco-warp does not have it.

        """
        array = getattr(self._data, name, None)
        if not isinstance(array, warp.array) or array.shape[:1] != (self._number,):
            hint = nearest(name, dir(self._data))
            raise UsageError(
                f"--simulation warp cannot step {type(self._family).__name__}: mujoco-warp has no "
                f"{name} of a state{hint}"
            )
        shape = getattr(getattr(mujoco.MjData(self.model), name, None), "shape", ())
        live: Tensor = warp.to_torch(array)
        return live.view(self._number, *shape)

    def _configure(self, tasks: dict[str, Tensor]) -> None:
        """The model's fields under the tasks, and what follows from them."""
        of_host = {name: values.cpu().numpy() for name, values in tasks.items()}
        for name, values in self._configured(of_host).items():
            live = warp.to_torch(getattr(self._model, name))
            live.copy_(torch.from_numpy(values).reshape(live.shape))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        mujoco_warp.set_const(self._model, self._data)

    def _capture(self) -> None:
        """Records the kernels of a step, after two steps for which they are compiled."""

        def tell() -> None:
            logger.warning(
                "mujoco-warp compiles its kernels for %s, once; it takes minutes. They stay in %s",
                type(self._family).__name__,
                warp.config.kernel_cache_dir,
            )

        timer = threading.Timer(SECONDS_UNTIL_TOLD, tell)
        timer.start()
        try:
            for _ in range(2):
                self._advance()
            with warp.ScopedCapture() as capture:
                self._advance()
        finally:
            timer.cancel()
        self._graph = capture.graph

    def _advance(self) -> None:
        for _ in range(self.substeps):
            mujoco_warp.step(self._model, self._data)

    def _launch(self) -> None:
        """Replays a step on torch's stream."""
        stream = None
        if self._device.type == "cuda":
            stream = warp.stream_from_torch(self._device)  # type: ignore[no-untyped-call]
        warp.capture_launch(self._graph, stream)

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """Runs functions of mujoco-warp on warp's own stream, which torch's waits for.

        Not on torch's: warp would free their temporary arrays while kernels still use them.
        """
        wait = self._device.type == "cuda"
        if wait:
            torch.cuda.synchronize(self._device)
        with warp.ScopedDevice(warp.device_from_torch(self._device)):
            yield
            if wait:
                warp.synchronize_device()


def _where(moved: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """For each world the one or the other: [n], [n, ...], [n, ...]."""
    return torch.where(moved.reshape(-1, *(1,) * (after.dim() - 1)), after, before)
