"""A family for each kind of space: the reward is the goal times a weighted sum of the action."""

import copy
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

IMAGE = spaces.Box(0, 255, (9, 9, 3), np.uint8)
VECTOR = spaces.Box(-1.0, 1.0, (2,), np.float32)
TWO = spaces.Discrete(2)

SPACES = {
    "vector": (VECTOR, VECTOR),
    "matrix": (
        spaces.Box(-1.0, 1.0, (2, 3), np.float32),
        spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    ),
    "scalar": (spaces.Box(-1.0, 1.0, (), np.float32), spaces.Box(-1.0, 1.0, (), np.float32)),
    "float64": (spaces.Box(-1.0, 1.0, (2,), np.float64), spaces.Box(-1.0, 1.0, (2,), np.float64)),
    "integers": (spaces.Box(-3, 3, (2,), np.int64), spaces.Box(-3, 3, (2,), np.int64)),
    "image": (IMAGE, TWO),
    "gray": (spaces.Box(0, 255, (9, 9), np.uint8), TWO),
    "channels-first": (spaces.Box(0, 255, (3, 9, 9), np.uint8), TWO),
    "bytes": (spaces.Box(0, 255, (4,), np.uint8), TWO),
    "discrete": (spaces.Discrete(4), spaces.Discrete(3)),
    "discrete-start": (spaces.Discrete(4, start=2), spaces.Discrete(3, start=-1)),
    "multi-discrete": (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2, 4])),
    "multi-discrete-start": (
        spaces.MultiDiscrete([2, 3], start=[1, 5]),
        spaces.MultiDiscrete([3, 2], start=[4, -1]),
    ),
    "multi-discrete-matrix": (
        spaces.MultiDiscrete([[2, 3]]),
        spaces.MultiDiscrete([[2, 3], [3, 2]]),
    ),
    "multi-binary": (spaces.MultiBinary(3), spaces.MultiBinary(3)),
    "multi-binary-matrix": (spaces.MultiBinary((2, 2)), spaces.MultiBinary((2, 2))),
    "dict": (spaces.Dict(place=VECTOR, kind=spaces.Discrete(3)), VECTOR),
    "tuple": (spaces.Tuple((spaces.Discrete(3), VECTOR)), VECTOR),
    "nested": (
        spaces.Dict(image=IMAGE, rest=spaces.Tuple((VECTOR, spaces.MultiBinary(2)))),
        spaces.Discrete(3),
    ),
    "text": (spaces.Dict(place=VECTOR, mission=spaces.Text(5)), TWO),
}
"""Observation and action spaces that can be trained on."""

REFUSED = {
    "sequence": (spaces.Sequence(VECTOR), TWO),
    "graph": (spaces.Graph(VECTOR, None), TWO),
    "dict-actions": (VECTOR, spaces.Dict(place=VECTOR)),
    "tuple-actions": (VECTOR, spaces.Tuple((TWO, TWO))),
    "empty": (spaces.Box(-1.0, 1.0, (0,), np.float32), TWO),
    "no-actions": (VECTOR, spaces.Box(-1.0, 1.0, (0,), np.float32)),
}
"""Those that cannot."""


def name_of(kind):
    return f"{__name__}:Space-{kind}-v0"


class SpaceEnv(gymnasium.Env):
    """Draws its observations from their space, and checks that actions are what theirs samples."""

    task_space: ClassVar = spaces.Dict(goal=spaces.Box(-1.0, 1.0, ()))

    def __init__(self, kind="vector"):
        self.observation_space, self.action_space = copy.deepcopy((SPACES | REFUSED)[kind])
        self.task = {"goal": 0.5}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), {}

    def step(self, action):
        sampled = self.action_space.sample()
        assert type(action) is type(sampled), f"a {type(action)}, not a {type(sampled)}"
        assert action in self.action_space, f"{action!r} is not in {self.action_space}"
        flat = spaces.flatten(self.action_space, action)
        reward = float(self.task["goal"]) * float(flat @ np.arange(1, len(flat) + 1))
        return self.observation_space.sample(), reward, False, False, {}


for kind in SPACES | REFUSED:
    gymnasium.register(
        f"Space-{kind}-v0",
        entry_point=f"{__name__}:SpaceEnv",
        max_episode_steps=4,
        kwargs={"kind": kind},
    )
