"""The task families that come with metarl, registered with Gymnasium: `envs:HalfCheetahDir-v0`."""

import gymnasium

for name in ("HalfCheetahDir", "HalfCheetahVel"):
    gymnasium.register(
        f"{name}-v0",
        entry_point="metarl.simulation.mujoco:MujocoEnv",
        vector_entry_point="metarl.simulation.mujoco:MujocoVectorEnv",
        max_episode_steps=100,  # Deleu, ProMP and garage; Finn 200
        kwargs={"family": f"envs.half_cheetah:{name}"},
    )

gymnasium.register(
    "Navigation2D-v0",
    entry_point="metarl.simulation.dynamics:DynamicsEnv",
    vector_entry_point="metarl.simulation.dynamics:DynamicsVectorEnv",
    max_episode_steps=100,
    kwargs={"family": "envs.navigation:Navigation2D"},
)

gymnasium.register(
    "PendulumParams-v0",
    entry_point="metarl.parameterised:ParameterisedEnv",
    max_episode_steps=200,
    kwargs={
        "env_id": "Pendulum-v1",
        "parameters": {
            "gravity": ["g", 8.0, 12.0],  # m/s²
            "mass": ["m", 0.5, 2.0],  # kg, as in RLlib's PendulumMassEnv
            "length": ["l", 0.75, 1.25],  # m
        },
    },
)
