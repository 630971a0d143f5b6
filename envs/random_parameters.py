"""Scales for the masses, inertias, dampings and frictions of a model, as tasks.

Source: Rakelly et al. 2019 (PEARL, arXiv 1903.08254) and its `rand_param_envs`; VariBAD uses them
too. Each number of the model has a scale of its own.
"""

from collections.abc import Mapping

from metarl.tasks.declaration import Array, Fields
from metarl.tasks.distributions import LogUniform, TaskDistribution

MODEL_FIELDS = ("body_mass", "body_inertia", "dof_damping", "geom_friction")


def scale_distribution(bodies: int, joints: int, geoms: int) -> TaskDistribution:
    """Masses, inertias and frictions × 1.5^U(−3, 3), dampings × 1.3^U(−3, 3), elementwise."""
    wide, narrow = (1.5**-3, 1.5**3), (1.3**-3, 1.3**3)
    return TaskDistribution(
        mass_scale=LogUniform(*wide, (bodies,)),
        inertia_scale=LogUniform(*wide, (bodies, 3)),
        damping_scale=LogUniform(*narrow, (joints,)),
        friction_scale=LogUniform(*wide, (geoms, 3)),
    )


def scaled(model: Fields, task: Mapping[str, Array]) -> dict[str, Array]:
    """The model's own values times the task's scales."""
    return {
        "body_mass": model.body_mass * task["mass_scale"],
        "body_inertia": model.body_inertia * task["inertia_scale"],
        "dof_damping": model.dof_damping * task["damping_scale"],
        "geom_friction": model.geom_friction * task["friction_scale"],
    }
