"""The task families that come with metarl, registered with Gymnasium: `envs:HalfCheetahDir-v0`.

Classes are named by their place in `metarl_envs`, which is this package under a name that no other
project uses.
"""

import gymnasium

HORIZONS = {  # steps of an episode, by module
    "half_cheetah": {"HalfCheetahDir": 100, "HalfCheetahVel": 100},  # Deleu, ProMP; Finn 200
    "ant": {"AntDir": 200, "AntDir2D": 200, "AntVel": 200, "AntGoal": 200},
    "humanoid": {"HumanoidDir": 200},
    "walker2d": {"Walker2dDir": 200, "Walker2dVel": 200, "Walker2dParams": 200},
    "hopper": {"HopperParams": 200},
    "swimmer": {"SwimmerVel": 200},
    "reacher": {"ReacherGoal": 50},
    "navigation": {"Navigation2D": 100, "NavigationCorners": 100, "SparsePointRobot": 20},
    "cart_pole": {"CartPoleParams": 200},
    "bandit": {"BernoulliBandit": 1, "GaussianBandit": 1},
    "tabular": {"TabularMDP": 10, "GridNavigation": 15},
}


def register(
    name: str, entry_point: str, max_episode_steps: int, kwargs: dict[str, object]
) -> None:
    """Registers a family unless a project or an earlier import has registered its id."""
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point, max_episode_steps=max_episode_steps, kwargs=kwargs)


for module, families in HORIZONS.items():
    own = module in ("navigation", "cart_pole", "bandit", "tabular")
    environment = "dynamics:DynamicsEnv" if own else "mujoco:MujocoEnv"
    for name, horizon in families.items():
        register(
            f"{name}-v0",
            entry_point=f"metarl.simulation.{environment}",
            max_episode_steps=horizon,
            kwargs={"family": f"metarl_envs.{module}:{name}"},
        )

register(
    "PendulumParams-v0",
    entry_point="metarl.tasks.parameterised:ParameterisedEnv",
    max_episode_steps=200,
    kwargs={
        "env_id": "Pendulum-v1",
        "parameters": {
            "gravity": ["g", {"kind": "Uniform", "low": 8.0, "high": 12.0, "unit": "m/s²"}],
            # As in RLlib's PendulumMassEnv.
            "mass": ["m", {"kind": "Uniform", "low": 0.5, "high": 2.0, "unit": "kg"}],
            "length": ["l", {"kind": "Uniform", "low": 0.75, "high": 1.25, "unit": "m"}],
        },
    },
)
