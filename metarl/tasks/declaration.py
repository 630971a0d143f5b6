"""Task families declared once, as data and pure functions over arrays of any batch shape.

The entry point makes the single environment, and `metarl.simulation` makes batches of any size from
the same declaration. A declared family imports only this module and others of `metarl.tasks`:

    gymnasium.register(
        "HalfCheetahDir-v0",
        entry_point="metarl.simulation.mujoco:MujocoEnv",
        max_episode_steps=100,
        kwargs={"family": "metarl_envs.half_cheetah:HalfCheetahDir"},
    )
"""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from gymnasium import spaces

from metarl.support.errors import UsageError
from metarl.support.modules import import_module_here
from metarl.support.types import Space
from metarl.tasks.distributions import TaskDistribution
from metarl.tasks.noise import Noise

Array: TypeAlias = Any
"""A NumPy or torch array; `array_api_compat.array_namespace` gives the functions for either."""


class Fields(Protocol):
    """Arrays by name: what the functions of a MuJoCo family see of a state, or of a model."""

    def __getattr__(self, name: str, /) -> Array:
        """The array of a field that the family declares, as in `state.qpos`: [..., *shape]."""


States: TypeAlias = Array | Fields
"""Arrays [..., state] in families with dynamics of their own, fields in those on MuJoCo models."""

F = TypeVar("F", bound="DeclaredFamily")


@dataclass(frozen=True)
class DeclaredFamily:
    """A task family as data and pure functions. The fields of a subclass are its options.

    The functions take arrays [..., n] of NumPy or torch and return arrays of the same kind [...].
    They receive states and never a simulator, so that the same code serves one environment, a
    batch on the CPU and a batch on a GPU.
    """

    source: ClassVar[str] = ""
    """The papers and implementations that define the family."""
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Options with which `--preset tuned` trains, by the name of an algorithm or a learner."""

    action_scale: float = 1.0
    """Policy actions from -scale to scale cover the range of bounded actions. The published
    implementations of the MuJoCo families use 10, so that a policy with an initial σ of 1 explores
    a tenth of the range."""

    @property
    def tasks(self) -> TaskDistribution:
        """The task parameters, their distributions, and the splits."""
        raise NotImplementedError

    @property
    def observation_space(self) -> spaces.Box:
        """Space of the observations that `observe` returns."""
        raise NotImplementedError

    def observe(self, state: States) -> Array:
        """The observation, which must not contain the task: [..., observation]."""
        raise NotImplementedError

    def reward(
        self, before: States, control: Array, after: States, task: Mapping[str, Array]
    ) -> Array:
        """Reward of the step from state `before` to state `after` under `control`: [...]."""
        raise NotImplementedError

    def info(
        self, before: States, control: Array, after: States, task: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """Numbers of a step by name, [...] each, for the info of the environment.

        No policy sees them; `--info-metrics` records them.
        """
        return {}

    def terminated(self, state: States, task: Mapping[str, Array]) -> Array | None:
        """Whether the episode terminates in `state`: [...]; None if episodes never terminate."""
        return None


@dataclass(frozen=True)
class MujocoFamily(DeclaredFamily):
    """A family on a MuJoCo model, whose states have fields of MjData: `state.qpos` [..., nq], ...

    A subclass must define `xml`, `control_timestep`, `tasks`, `observation_space`, `observe` and
    `reward`. It may define `fields`, `initial`, `terminated` and, for tasks that change the model,
    `model_fields` and `configure`. Policy actions in ±`action_scale` cover the `ctrlrange` of the
    actuators, and every actuator must have one. The `control` that `reward` receives is in the
    actuators' units.
    """

    xml: ClassVar[str]
    """Path of the model, such as `str(Path(__file__).with_name("my.xml"))`. A bare file name refers
    to a model of Gymnasium."""
    control_timestep: ClassVar[float]
    """Duration of an environment step in seconds: a multiple of the model's time step."""
    fields: ClassVar[tuple[str, ...]] = ("qpos", "qvel")
    """The MjData fields that the functions read, as `mj_step` leaves them: qpos and qvel are new,
    but what MuJoCo derives from them, such as `cfrc_ext`, dates from the start of the last
    substep."""
    model_fields: ClassVar[tuple[str, ...]] = ()
    """The MjModel fields that differ from task to task: those that `configure` returns."""
    contacts: ClassVar[int] = 0
    """Room that mujoco-warp makes for contacts, per environment on average; 0: its own guess."""
    constraints: ClassVar[int] = 0
    """Room that mujoco-warp makes for constraints of each environment; 0: its own guess."""

    def initial(self, noise: Noise, qpos: Array, qvel: Array) -> tuple[Array, Array]:
        """qpos [..., nq] and qvel [..., nv] at reset, given the model's own; by default these."""
        return qpos, qvel

    def configure(self, model: Fields, task: Mapping[str, Array]) -> Mapping[str, Array]:
        """The values of all `model_fields` under the task, as NumPy arrays: [..., *shape].

        `model` has the model's own values of these fields, [*shape]. To change the mass of one body
        only, write its column of a copy (its inertia is a separate field):

            mass = np.repeat(model.body_mass[None], len(task["mass"]), axis=0)
            mass[:, 2] = task["mass"]
            return {"body_mass": mass}
        """
        return {}


@dataclass(frozen=True)
class DynamicsFamily(DeclaredFamily):
    """A family with dynamics of its own. States are arrays [..., state]."""

    noise_size: ClassVar[int] = 0
    """How many random numbers `transition` receives, uniform over [0, 1)."""

    @property
    def action_space(self) -> Space:
        """Space of the actions that `transition` takes."""
        raise NotImplementedError

    def initial(self, noise: Noise) -> Array:
        """The first states of episodes: [..., state].

        They must have the batch shape and the array type of the noise: build them from
        `noise.uniform` and `noise.normal`, and from `noise.zeros` where nothing is random.
        """
        raise NotImplementedError

    def transition(
        self, state: Array, action: Array, task: Mapping[str, Array], noise: Array
    ) -> Array:
        """The next state: [..., state]; `noise` is [..., noise_size]."""
        raise NotImplementedError


def load_declaration(reference: str | F, options: Mapping[str, Any]) -> F:
    """Creates the declaration `module:Class` with `options`.

    Raises:
        UsageError: the class has no such option, or the option does not accept the value.

    """
    if not isinstance(reference, str):
        return dataclasses.replace(reference, **options)
    module, _, name = reference.partition(":")
    if name:
        import_module_here(module)
    family_class = getattr(sys.modules.get(module), name, None) if name else None
    if family_class is None:
        raise UsageError(f"family {reference} must be MODULE:CLASS of a declaration")
    types = get_type_hints(family_class)
    known = {field.name: types[field.name] for field in dataclasses.fields(family_class)}
    for option, value in options.items():
        if option not in known:
            raise UsageError(f"{name} has no option {option}; it has {', '.join(known) or 'none'}")
        if not _is_of(known[option], value):
            raise UsageError(f"{name}: {option} {value} must be {_described(known[option])}")
    family: F = family_class(**options)
    return family


def _is_of(kind: object, value: object) -> bool:
    """Whether the value has the annotated type; a bool does not count as a number."""
    origin = get_origin(kind)
    if origin is Literal:
        return value in get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_of(part, value) for part in get_args(kind))
    if kind in (int, float) and isinstance(value, bool):
        return False
    expected = origin or kind
    if expected is float:
        return isinstance(value, (int, float))
    return not isinstance(expected, type) or isinstance(value, expected)


def _described(kind: object) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_described, get_args(kind)))
    names: dict[object, str] = {bool: "true or false", int: "an int", type(None): "None"}
    return names.get(kind) or f"a {getattr(kind, '__name__', kind)}"
