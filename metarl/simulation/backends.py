"""The backends that step environments, and the choice among them.

Another package announces its backend as an entry point, whose name `simulation` then accepts:

    [project.entry-points."metarl.simulations"]
    mine = "my_package.simulation:MyBackend"
"""

import dataclasses
import functools
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium

from metarl.simulation.physics import WarpOptions
from metarl.support.errors import UsageError
from metarl.support.foreign import START_LIMIT, Calling
from metarl.support.parts import Parts
from metarl.tasks.declaration import DynamicsFamily, MujocoFamily
from metarl.tasks.family import TaskFamily

if TYPE_CHECKING:  # listing families and their backends must not import torch
    import torch

    from metarl.simulation.protocol import Simulation

AUTO = "auto"


@dataclass(frozen=True)
class Processes:
    """Worker processes for environments that are stepped one by one, and the limit of a call."""

    number: int = 0
    """0 steps them in this process."""
    timeout: float = 60.0
    """Seconds that one step of a worker, or a call of an environment in this process, may take."""


NONE = Processes()


WARP_ENVS: int | None = None
"""Environments from which on `auto` takes a GPU. None: it takes none, until this is measured."""


class Backend(Protocol):
    """Makes the simulations of the families that it can step.

    One whose simulations are not on the CPU has a method `device()`, which says where they are. One
    that steps its environments one after the other may have an attribute `one_by_one` that is true:
    an evaluation then has no more of them at once than training, and takes its tasks in rounds.
    """

    def refusal(self, family: TaskFamily) -> str | None:
        """Why it cannot step the family, such as "it is not a declared family"; None if it can."""

    def preference(self, family: TaskFamily, num_envs: int) -> float:
        """How well it suits the family; `auto` takes the able backend with the largest value."""

    def shares(self, family: TaskFamily) -> int:
        """The number of simulations that divide the tasks, so that they can take turns."""

    def make(
        self,
        family: TaskFamily,
        num_envs: int,
        threads: int,
        processes: Processes,
        info: Sequence[str] = (),
    ) -> "Simulation":
        """Makes a simulation.

        Args:
            family: the family.
            num_envs: number of environments.
            threads: of the simulator, 0 for all cores.
            processes: workers for environments that are stepped one by one.
            info: names of the numbers in `Step.info`; a backend without this argument has none.

        """


class BatchBackend:
    """Steps all environments of a declared family at once: MuJoCo's batch, or array operations."""

    def refusal(self, family: TaskFamily) -> str | None:
        """Refuses families that are not declared, and those with code around the declaration."""
        if not isinstance(family.declaration, MujocoFamily | DynamicsFamily):
            return "it is not a declared family (metarl.tasks.declaration)"
        if family.spec.additional_wrappers:
            return "it is registered with wrappers"
        if (own := family.own_code) is not None:
            return f"{own} has code of its own around the declaration"
        return None

    def preference(self, family: TaskFamily, num_envs: int) -> float:
        """Higher than that of stepping one environment at a time."""
        return 1.0

    def shares(self, family: TaskFamily) -> int:
        """Two: while one waits for its actions, the physics of the other run.

        The number does not depend on the threads, so that these change no result. Each simulation
        may use all threads, so that neither has to wait for a slow core.
        """
        return 2

    def make(
        self,
        family: TaskFamily,
        num_envs: int,
        threads: int,
        processes: Processes,
        info: Sequence[str] = (),
    ) -> "Simulation":
        """Makes a simulation on the CPU, without worker processes."""
        from metarl.simulation.declared import DeclaredSimulation
        from metarl.simulation.dynamics import DynamicsPhysics
        from metarl.simulation.mujoco import make_physics

        declaration = family.declaration
        if isinstance(declaration, MujocoFamily):
            physics = make_physics(declaration, num_envs, threads)
            return DeclaredSimulation(
                declaration, physics, num_envs, family.horizon, None, info, processes.timeout
            )
        assert isinstance(declaration, DynamicsFamily)  # `refusal` ensures it
        points = DynamicsPhysics(declaration, num_envs)
        return DeclaredSimulation(
            declaration, points, num_envs, family.horizon, None, info, processes.timeout
        )


class GymnasiumBackend:
    """Steps any family one environment at a time, in this process or in worker processes.

    If a family is registered with its own vector environment, this backend uses it.
    """

    one_by_one = True

    def refusal(self, family: TaskFamily) -> str | None:
        """None: it can step any family."""
        return None

    def preference(self, family: TaskFamily, num_envs: int) -> float:
        """The lowest: this backend is the fallback."""
        return 0.0

    def shares(self, family: TaskFamily) -> int:
        """One simulation of all tasks."""
        return 1

    def make(
        self,
        family: TaskFamily,
        num_envs: int,
        threads: int,
        processes: Processes,
        info: Sequence[str] = (),
    ) -> "Simulation":
        """Makes a simulation on the CPU; `threads` is not used.

        Raises:
            UsageError: the family's own vector environment has no task, or resets ended episodes.
            FamilyError: an environment cannot be made.

        """
        from metarl.simulation.gymnasium import GymnasiumSimulation
        from metarl.simulation.processes import ProcessEnvironments
        from metarl.simulation.serial import Environments, SerialEnvironments, VectorEnvironments

        environments: Environments
        if has_own_vector(family):
            with Calling(lambda: f"{family.id}: __init__ of its vector", START_LIMIT):
                vector = gymnasium.make_vec(
                    family.spec, num_envs, max_episode_steps=family.horizon, **family.options
                )
            environments = VectorEnvironments(vector, family.id, info, processes.timeout)
        elif processes.number:
            # Without what this process has cached.
            make = functools.partial(flat_from, dataclasses.replace(family))
            number, timeout = processes.number, processes.timeout
            environments = ProcessEnvironments(make, num_envs, number, timeout, info, family.id)
        else:
            make = functools.partial(flat_from, family)
            environments = SerialEnvironments(
                make, num_envs, info=info, name=family.id, timeout=processes.timeout
            )
        return GymnasiumSimulation(environments)


class WarpBackend:
    """Steps all environments of a declared family on a GPU: by mujoco-warp, or array operations."""

    def refusal(self, family: TaskFamily) -> str | None:
        """As a batch, and MuJoCo families where mujoco-warp is not installed."""
        missing = not all(map(importlib.util.find_spec, ("mujoco_warp", "warp")))
        if isinstance(family.declaration, MujocoFamily) and missing:
            return 'mujoco-warp is not installed; pip install "metarl-suite[gpu]" brings it'
        return BatchBackend().refusal(family)

    def preference(self, family: TaskFamily, num_envs: int) -> float:
        """Above that of a batch where there is a GPU, for as many environments as pay."""
        if WARP_ENVS is None or num_envs < WARP_ENVS:
            return -1.0
        return 2.0 if self.device().type == "cuda" else -1.0

    def shares(self, family: TaskFamily) -> int:
        """One: a GPU takes all tasks at once."""
        return 1

    def device(self) -> "torch.device":
        """The GPU of this process with its index, or the CPU if there is none."""
        import torch

        from metarl.support.parallel import pick_device

        device = pick_device("auto")
        return torch.device("cuda", device.index or 0) if device.type == "cuda" else device

    def make(
        self,
        family: TaskFamily,
        num_envs: int,
        threads: int,
        processes: Processes,
        info: Sequence[str] = (),
        warp: WarpOptions | None = None,
    ) -> "Simulation":
        """Makes a simulation on the device; `threads` are not used.

        Raises:
            UsageError: mujoco-warp cannot step the family's model.

        """
        from metarl.simulation.device import make_device_simulation

        declaration = family.declaration
        assert declaration is not None  # `refusal` ensures it
        return make_device_simulation(
            declaration,
            num_envs,
            family.horizon,
            self.device(),
            info,
            warp or WarpOptions(),
            processes.timeout,
        )


def flat_from(family: TaskFamily) -> gymnasium.Env:
    """An environment of the family with flat observations."""
    from metarl.policies.observations import flat_environment

    return flat_environment(family.make())


BACKENDS = Parts[type[Backend]](
    "--simulation",
    "metarl.simulations",
    {"batch": BatchBackend, "gymnasium": GymnasiumBackend, "warp": WarpBackend},
    lambda part: (
        isinstance(part, type) and all(hasattr(part, n) for n in vars(Backend) if n[0] != "_")
    ),
    "a class with the methods of metarl.simulation.backends.Backend",
    "MODULE:CLASS",
    also=(AUTO,),
)


@functools.cache
def make_backend(name: str) -> Backend:
    """The backend of that name."""
    return BACKENDS.find(name)()


def choose_backend(
    family: TaskFamily, num_envs: int, simulation: str = AUTO
) -> tuple[str, Backend]:
    """The name of the backend that steps the family, and the backend.

    Raises:
        UsageError: there is no backend of that name, or it cannot step the family.

    """
    if simulation == AUTO:
        known = {name: make_backend(name) for name in BACKENDS.names()}
        able = [name for name, backend in known.items() if backend.refusal(family) is None]
        best = max(able, key=lambda name: known[name].preference(family, num_envs))
        return best, known[best]
    backend = make_backend(simulation)
    if reason := backend.refusal(family):
        raise UsageError(f"--simulation {simulation} cannot step {family.id}: {reason}")
    return simulation, backend


def make_simulations(
    family: TaskFamily,
    tasks: int,
    episodes: int,
    threads: int,
    processes: Processes = NONE,
    simulation: str = AUTO,
    info: Sequence[str] = (),
    warp: WarpOptions | None = None,
) -> "list[Simulation]":
    """Makes simulations for `episodes` episodes of each task, which share the tasks in order.

    `warp` is for those of mujoco-warp.

    Raises:
        UsageError: there is no such backend, it cannot step the family, or it has no info.

    """
    name, backend = choose_backend(family, tasks * episodes, simulation)
    asked: dict[str, Any] = {}
    if info:
        expect_info(name, backend)
        asked["info"] = info
    if warp is not None and "warp" in inspect.signature(backend.make).parameters:
        asked["warp"] = warp
    number = min(tasks, backend.shares(family))
    sizes = [tasks // number + (i < tasks % number) for i in range(number)]
    return [backend.make(family, size * episodes, threads, processes, **asked) for size in sizes]


def expect_info(name: str, backend: Backend) -> None:
    """Checks that the simulations of a backend can have an info.

    Raises:
        UsageError: they cannot.

    """
    if "info" not in inspect.signature(backend.make).parameters:
        raise UsageError(f"--info-metrics: --simulation {name} has no info of its steps")


def make_simulation(
    family: TaskFamily,
    num_envs: int,
    threads: int = 0,
    processes: Processes = NONE,
    simulation: str = AUTO,
) -> "Simulation":
    """Makes one simulation of `num_envs` environments, as `make_simulations` makes several."""
    _, backend = choose_backend(family, num_envs, simulation)
    return backend.make(family, num_envs, threads, processes)


def backend_name(family: TaskFamily) -> str:
    """The backend that `auto` takes for one environment of the family."""
    return choose_backend(family, 1)[0]


def device_of(backend: Backend) -> "torch.device":
    """Where the simulations of a backend are; a backend without `device` is on the CPU."""
    import torch

    device = getattr(backend, "device", None)
    return torch.device("cpu") if device is None else device()


def has_own_vector(family: TaskFamily) -> bool:
    """Whether the family is registered with a vector environment of its own."""
    return family.spec.vector_entry_point is not None and family.declaration is None
