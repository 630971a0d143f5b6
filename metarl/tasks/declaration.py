"""Declaring a task family once, as data and pure functions over arrays of any batch shape.

The entry point makes the single environment; `metarl.simulation` makes batches of any size from the
same declaration. This module and `metarl.tasks` beside it are all that a declared family imports:

    gymnasium.register(
        "HalfCheetahDir-v0",
        entry_point="metarl.simulation.mujoco:MujocoEnv",
        max_episode_steps=100,
        kwargs={"family": "metarl_envs.half_cheetah:HalfCheetahDir"},
    )
"""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from gymnasium import spaces

from metarl.support.errors import UsageError
from metarl.support.types import Space
from metarl.tasks.distributions import TaskDistribution
from metarl.tasks.noise import Noise

Array: TypeAlias = Any
"""A NumPy or torch array; `array_api_compat.array_namespace` gives the functions for either."""


class Fields(Protocol):
    """The fields of a MuJoCo state or model by name, as `state.qpos` [..., nq]."""

    def __getattr__(self, name: str, /) -> Array:
        """The field: [..., *shape]."""


@dataclass(frozen=True)
class DeclaredFamily:
    """A task family as data and pure functions; fields of a subclass are its options.

    Functions take arrays [..., n] of NumPy or torch and return arrays of the same kind [...].
    They see states, never a simulator, so that the same lines serve one environment, a batch on
    the CPU and a batch on a GPU.
    """

    source: ClassVar[str] = ""
    """Who defined the family: papers and implementations."""

    action_scale: float = 1.0
    """Policy actions from -scale to scale cover the range of bounded actions: the published
    implementations of the MuJoCo families use 10, so that an initial σ of 1 explores with a tenth
    of the range."""

    @property
    def tasks(self) -> TaskDistribution:
        """The task parameters, how they are distributed, and in which splits."""
        raise NotImplementedError

    @property
    def observation_space(self) -> spaces.Box:
        """Space of `observe`."""
        raise NotImplementedError

    def observe(self, state: Array) -> Array:
        """What the policy sees, [..., observation]: never the task."""
        raise NotImplementedError

    def reward(
        self, before: Array, control: Array, after: Array, task: Mapping[str, Array]
    ) -> Array:
        """Reward of the step from state `before` under `control` to state `after`: [...]."""
        raise NotImplementedError

    def terminated(self, state: Array, task: Mapping[str, Array]) -> Array | None:
        """Whether the episode ends in `state`: [...]; None where it never does."""
        return None


@dataclass(frozen=True)
class MujocoFamily(DeclaredFamily):
    """A family on a MuJoCo model. States have the model's fields: `state.qpos` [..., nq], ...

    To be set: `xml`, `control_timestep`, `tasks`, `observation_space`, `observe`, `reward`; beside
    these as needed: `fields` that the functions read, `initial`, `terminated`, and for tasks that
    change the model `model_fields` and `configure`. A policy's actions in ±`action_scale` cover the
    `ctrlrange` of the actuators, which each must have; the `control` that `reward` sees is the
    actuators'.
    """

    xml: ClassVar[str]
    """Path of the model, as `str(Path(__file__).with_name("my.xml"))`; a bare name is one of
    Gymnasium's."""
    control_timestep: ClassVar[float]
    """Seconds of one environment step; a multiple of the model's time step."""
    fields: ClassVar[tuple[str, ...]] = ("qpos", "qvel")
    """The MjData fields that the functions read, as `mj_step` leaves them: qpos and qvel are new,
    what derives from them is not yet. `cfrc_ext` is of the last substep's begin."""
    model_fields: ClassVar[tuple[str, ...]] = ()
    """The MjModel fields that differ from task to task: those that `configure` gives."""

    def initial(self, noise: Noise, qpos: Array, qvel: Array) -> tuple[Array, Array]:
        """qpos [..., nq] and qvel [..., nv] at reset, from the model's; by default unchanged."""
        return qpos, qvel

    def configure(self, model: Fields, task: Mapping[str, Array]) -> Mapping[str, Array]:
        """Each of `model_fields` under the task, as NumPy arrays: [..., *shape].

        `model` has the model's own values of these fields, [*shape]. To change one body's mass
        only, copy and write its column (its inertia is a field of its own):

            mass = np.repeat(model.body_mass[None], len(task["mass"]), axis=0)
            mass[:, 2] = task["mass"]
            return {"body_mass": mass}
        """
        return {}


@dataclass(frozen=True)
class DynamicsFamily(DeclaredFamily):
    """A family with dynamics of its own. States are arrays [..., state]."""

    noise_size: ClassVar[int] = 0
    """Random numbers of a step, uniform over [0, 1)."""

    @property
    def action_space(self) -> Space:
        """Space of the actions that `transition` takes."""
        raise NotImplementedError

    def initial(self, noise: Noise) -> Array:
        """The first states of episodes, [..., state], with the batch shape and kind of the noise:
        draws of `noise.uniform` and `noise.normal`, and `noise.zeros` for what is not random.
        """
        raise NotImplementedError

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """The next state: [..., state]; `noise` is [..., noise_size]."""
        raise NotImplementedError


def load_declaration(reference: str | DeclaredFamily, options: Mapping[str, Any]) -> Any:
    """The declaration at `module:Class`, made with `options`.

    Raises:
        UsageError: an option that the class does not have, or a value that it does not take.

    """
    if not isinstance(reference, str):
        return dataclasses.replace(reference, **options)
    module, _, name = reference.partition(":")
    family_class = getattr(importlib.import_module(module), name, None) if name else None
    if family_class is None:
        raise UsageError(f"family {reference} must be MODULE:CLASS of a declaration")
    types = get_type_hints(family_class)
    known = {field.name: types[field.name] for field in dataclasses.fields(family_class)}
    for option, value in options.items():
        if option not in known:
            raise UsageError(f"{name} has no option {option}; it has {', '.join(known) or 'none'}")
        if not _is_of(known[option], value):
            raise UsageError(f"{name}: {option} {value} must be {_described(known[option])}")
    return family_class(**options)


def parse_value(value: object) -> object:
    """Converts the strings `true` and `false`, which a command line gives, to bool.

    Other values are returned as they are: the command line parses numbers itself.
    """
    truth = {"true": True, "false": False}
    return truth.get(value.lower(), value) if isinstance(value, str) else value


def _is_of(kind: Any, value: object) -> bool:
    """Whether the value has the annotated type; a bool does not count as a number."""
    origin = get_origin(kind)
    if origin is Literal:
        return value in get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_of(part, value) for part in get_args(kind))
    if kind in (int, float) and isinstance(value, bool):
        return False
    expected = origin or kind
    return isinstance(value, (int, float) if expected is float else expected)


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_described, get_args(kind)))
    names = {bool: "true or false", int: "an int", type(None): "None"}
    return names.get(kind) or f"a {getattr(kind, '__name__', kind)}"
