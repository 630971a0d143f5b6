"""Walker2d families: a planar biped that walks in a direction, at a speed, or with a random body.

Sources: Rothfuss et al. 2018 (ProMP, arXiv 1810.06784): direction and speed; Rakelly et al. 2019
(PEARL, arXiv 1903.08254): random parameters. The physics are Gymnasium's Walker2d-v5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from array_api_compat import array_namespace

from metarl.tasks.declaration import Array, Fields
from metarl.tasks.distributions import Choice, TaskDistribution, Uniform

from .locomotion import WIDE_TRUST_REGION, Locomotion, squared
from .random_parameters import MODEL_FIELDS, scale_distribution, scaled

CONTROL_COST = 0.001  # per unit of control, squared


@dataclass(frozen=True)
class Walker2d(Locomotion):
    """What the walker families share; the observation is that of Walker2d-v5 (17)."""

    xml: ClassVar[str] = "walker2d_v5.xml"
    contacts: ClassVar[int] = 12
    constraints: ClassVar[int] = 48
    control_timestep: ClassVar[float] = 0.008  # s
    observation_size: ClassVar[int] = 17
    reset_noise: ClassVar[float] = 0.005
    source: ClassVar[str] = "ProMP"

    def observe(self, state: Fields) -> Array:
        """Positions of the joints without x, and velocities clipped to ±10."""
        xp = array_namespace(state.qpos)
        return xp.concat([state.qpos[..., 1:], xp.clip(state.qvel, -10.0, 10.0)], axis=-1)

    def terminated(self, state: Fields, task: Mapping[str, Array]) -> Array:
        """The walker has fallen: height ∉ (.8, 2) or |angle| ≥ 1."""
        height, angle = state.qpos[..., 1], state.qpos[..., 2]
        return (height <= 0.8) | (height >= 2.0) | (abs(angle) >= 1.0)


@dataclass(frozen=True)
class Walker2dDir(Walker2d):
    """Walk forwards (+1) or backwards (−1): r = g v + 1 − .001 ‖a‖²."""

    @property
    def tasks(self) -> TaskDistribution:
        """The sign of the velocity to reach."""
        return TaskDistribution(direction=Choice((-1.0, 1.0)))

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """g v + 1 − .001 ‖a‖²."""
        return task["direction"] * self.velocity(before, after) + 1.0 - _cost(control)


@dataclass(frozen=True)
class Walker2dVel(Walker2d):
    """Walk at a given speed: r = 15 − |v − g| − .001 ‖a‖²; g uniform over [0, 10]."""

    @property
    def tasks(self) -> TaskDistribution:
        """The speed to reach."""
        return TaskDistribution(velocity=Uniform(0.0, 10.0, unit="m/s"))

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """15 − |v − g| − .001 ‖a‖²."""
        return 15.0 - abs(self.velocity(before, after) - task["velocity"]) - _cost(control)


@dataclass(frozen=True)
class Walker2dParams(Walker2d):
    """Walk with random body parameters: r = v + 1 − .001 ‖a‖²; the task scales the model."""

    model_fields: ClassVar[tuple[str, ...]] = MODEL_FIELDS
    source: ClassVar[str] = "PEARL, VariBAD"
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"maml": WIDE_TRUST_REGION}

    @property
    def tasks(self) -> TaskDistribution:
        """A scale for each number of the model."""
        return scale_distribution(bodies=8, joints=9, geoms=8)

    def configure(self, model: Fields, task: Mapping[str, Array]) -> Mapping[str, Array]:
        """The scaled model."""
        return scaled(model, task)

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """v + 1 − .001 ‖a‖²."""
        return self.velocity(before, after) + 1.0 - _cost(control)


def _cost(control: Array) -> Array:
    return CONTROL_COST * squared(control)
