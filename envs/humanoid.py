"""Humanoid families: a biped that runs in a direction of the plane.

Source: Rakelly et al. 2019 (PEARL, arXiv 1903.08254, and its code). The physics are Gymnasium's
Humanoid-v5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from metarl.tasks.declaration import Array, Fields
from metarl.tasks.distributions import TaskDistribution, Uniform

from .locomotion import WIDE_TRUST_REGION, Locomotion, squared

MODEL_TIMESTEP = 0.003  # s; PEARL's code divides by it instead of by the control step


@dataclass(frozen=True)
class HumanoidDir(Locomotion):
    """Run at an angle θ: r = .25 d·Δc / .003 − .1 ‖u‖² − min(5·10⁻⁷ ‖cfrc_ext‖², 10) + 5.

    c is the centre of mass in the plane, d = (cos θ, sin θ), u the actuators' control in ±.4. The
    observation is that of Humanoid-v5 (348).
    """

    xml: ClassVar[str] = "humanoid.xml"
    contacts: ClassVar[int] = 32
    constraints: ClassVar[int] = 96
    control_timestep: ClassVar[float] = 0.015  # s
    fields: ClassVar[tuple[str, ...]] = (
        *("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "subtree_com"),
    )
    observation_size: ClassVar[int] = 348
    reset_noise: ClassVar[float] = 0.01
    source: ClassVar[str] = "PEARL"
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"maml": WIDE_TRUST_REGION}

    @property
    def tasks(self) -> TaskDistribution:
        """The angle from the x axis."""
        return TaskDistribution(angle=Uniform(0.0, 2 * np.pi, unit="rad"))

    def observe(self, state: Fields) -> Array:
        """Joints, inertias and velocities of the bodies, torques, and forces on the bodies."""
        xp = array_namespace(state.qpos)

        def bodies(values: Array) -> Array:
            return xp.reshape(values[..., 1:, :], (*values.shape[:-2], -1))

        return xp.concat(
            [
                state.qpos[..., 2:],
                state.qvel,
                bodies(state.cinert),
                bodies(state.cvel),
                state.qfrc_actuator[..., 6:],
                bodies(state.cfrc_ext),
            ],
            axis=-1,
        )

    def reward(
        self, before: Fields, control: Array, after: Fields, task: Mapping[str, Array]
    ) -> Array:
        """Velocity of the centre of mass along d, less the costs, and 5 for being alive."""
        xp = array_namespace(control)
        moved = (after.subtree_com[..., 0, :2] - before.subtree_com[..., 0, :2]) / MODEL_TIMESTEP
        along = xp.cos(task["angle"]) * moved[..., 0] + xp.sin(task["angle"]) * moved[..., 1]
        impact = xp.clip(5e-7 * xp.sum(after.cfrc_ext**2, axis=(-2, -1)), None, 10.0)
        return 0.25 * along - 0.1 * squared(control) - impact + 5.0

    def terminated(self, state: Fields, task: Mapping[str, Array]) -> Array:
        """The torso is too low or too high: z ∉ [1, 2]."""
        z = state.qpos[..., 2]
        return (z < 1.0) | (z > 2.0)
