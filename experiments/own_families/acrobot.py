"""An existing environment as a family, without a class: Gymnasium's Acrobot with other masses.

Run it from this folder:

    metarl check acrobot:AcrobotLinks-v0
    metarl train --family acrobot:AcrobotLinks-v0 --workers 2 --iterations 10 --meta-batch-size 4

The task is the value of attributes that the environment reads at each step.
"""

import gymnasium

gymnasium.register(
    "AcrobotLinks-v0",
    entry_point="metarl.tasks.parameterised:ParameterisedEnv",
    max_episode_steps=200,
    kwargs={
        "env_id": "Acrobot-v1",
        "parameters": {
            "upper_mass": ["LINK_MASS_1", {"kind": "Uniform", "low": 0.5, "high": 2, "unit": "kg"}],
            "lower_mass": ["LINK_MASS_2", {"kind": "Uniform", "low": 0.5, "high": 2, "unit": "kg"}],
        },
    },
)
