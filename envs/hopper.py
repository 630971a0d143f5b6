"""Hopper families: a planar leg of random body parameters that hops.

Source: Rakelly et al. 2019 (PEARL, arXiv 1903.08254). The physics are Gymnasium's Hopper-v5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from array_api_compat import array_namespace

from metarl.tasks.declaration import Array, Fields
from metarl.tasks.distributions import TaskDistribution

from .locomotion import WIDE_TRUST_REGION, Locomotion, squared
from .random_parameters import MODEL_FIELDS, scale_distribution, scaled

LARGEST_STATE = 100.0


@dataclass(frozen=True)
class HopperParams(Locomotion):
    """Hop with random body parameters: r = v + 1 − .001 ‖a‖²; observation of Hopper-v5 (11)."""

    xml: ClassVar[str] = "hopper.xml"
    contacts: ClassVar[int] = 12
    constraints: ClassVar[int] = 48
    control_timestep: ClassVar[float] = 0.008  # s
    model_fields: ClassVar[tuple[str, ...]] = MODEL_FIELDS
    observation_size: ClassVar[int] = 11
    reset_noise: ClassVar[float] = 0.005
    source: ClassVar[str] = "PEARL, VariBAD"
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"maml": WIDE_TRUST_REGION}

    @property
    def tasks(self) -> TaskDistribution:
        """A scale for each number of the model."""
        return scale_distribution(bodies=5, joints=6, geoms=5)

    def configure(self, model: Fields, task: Mapping[str, Array]) -> Mapping[str, Array]:
        """The scaled model."""
        return scaled(model, task)

    def observe(self, state: Fields) -> Array:
        """Positions of the joints without x, and velocities clipped to ±10."""
        xp = array_namespace(state.qpos)
        return xp.concat([state.qpos[..., 1:], xp.clip(state.qvel, -10.0, 10.0)], axis=-1)

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """v + 1 − .001 ‖a‖²."""
        return self.velocity(before, after) + 1.0 - 0.001 * squared(control)

    def terminated(self, state: Fields, task: Mapping[str, Array]) -> Array:
        """The leg has fallen: height ≤ .7, |angle| ≥ .2, or a later |coordinate| ≥ 100."""
        xp = array_namespace(state.qpos)
        rest = xp.concat([state.qpos[..., 2:], state.qvel], axis=-1)
        wild = xp.any(xp.abs(rest) >= LARGEST_STATE, axis=-1)
        return (state.qpos[..., 1] <= 0.7) | (abs(state.qpos[..., 2]) >= 0.2) | wild
