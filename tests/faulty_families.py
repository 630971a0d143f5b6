"""Families with one fault each, for `metarl check` to find."""

import os
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Line(gymnasium.Env):
    """A point on a line, and nothing wrong: r = −|x − goal|."""

    def __init__(self, **_options):
        self.observation_space = spaces.Box(-10.0, 10.0, (1,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.task_space = spaces.Dict(goal=spaces.Box(-1.0, 1.0, (), np.float64))
        self.task = {"goal": np.array(0.5)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1, 1)
        return self.x.copy(), {}

    def step(self, action):
        self.x = np.clip(self.x + 0.1 * np.float64(action), -10, 10)
        return self.x.copy(), -abs(float(self.x[0] - self.task["goal"])), False, False, {}


class TaskIgnored(Line):
    def step(self, action):
        observation, *_ = super().step(action)
        return observation, -abs(float(self.x[0])), False, False, {}


class TaskLost(Line):
    def reset(self, **options):
        result = super().reset(**options)
        self.task = {"goal": np.array(self.np_random.uniform(-1, 1))}
        return result


class Leak(Line):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-10.0, 10.0, (2,), np.float64)

    def _with_hint(self, x):
        return np.array([x[0], 3 * float(self.task["goal"]) + x[0]])

    def reset(self, **options):
        x, info = super().reset(**options)
        return self._with_hint(x), info

    def step(self, action):
        x, *rest = super().step(action)
        return self._with_hint(x), *rest


class WrongSpace(Line):
    def step(self, action):
        observation, *rest = super().step(action)
        return observation.astype(np.float32).repeat(2), *rest


class TaskOutside(Line):
    def sample_task(self, generator, split):
        return {"goal": generator.uniform(-2, 2)}


class NanReward(Line):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.nan if self.x[0] > 0.3 else reward, *rest


class RandomReset(Line):
    def reset(self, **options):
        super().reset(**options)
        self.x = np.random.default_rng().uniform(-0.1, 0.1, 1)
        return self.x.copy(), {}


class SplitOverlap(Line):
    def sample_task(self, generator, split):
        return {"goal": generator.choice([-1.0, 0.0, 0.5, 1.0])}


class LineVector(gymnasium.vector.VectorEnv):
    """A vector environment of `Line` that forgets something."""

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}

    def __init__(self, num_envs, max_episode_steps=None, fault="", **_options):
        self.envs = [Line() for _ in range(num_envs)]
        self.num_envs, self.fault, self.limit = num_envs, fault, max_episode_steps
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.task_space = self.envs[0].task_space

    @property
    def task(self):
        return {"goal": np.array([env.task["goal"] for env in self.envs])}

    @task.setter
    def task(self, tasks):
        for env, goal in zip(self.envs, tasks["goal"], strict=True):
            env.task = {"goal": goal}

    def reset(self, *, seed=None, options=None):
        self.elapsed = 0
        seeds = seed if isinstance(seed, list) else [seed + i for i in range(self.num_envs)]
        pairs = zip(self.envs, seeds, strict=True)
        return np.stack([env.reset(seed=s)[0] for env, s in pairs]), {}

    def step(self, actions):
        self.elapsed += 1
        results = [env.step(a) for env, a in zip(self.envs, actions, strict=True)]
        observations, rewards = (np.stack(part) for part in list(zip(*results, strict=True))[:2])
        if self.fault == "disagrees":
            rewards = rewards * 1.01
        late = self.fault != "endless" and self.elapsed >= self.limit
        flags = np.full(self.num_envs, late)
        return observations, rewards, np.zeros_like(flags), flags, {}


for _class in (
    *(Line, TaskIgnored, TaskLost, Leak, WrongSpace, TaskOutside),
    *(NanReward, RandomReset, SplitOverlap),
):
    gymnasium.register(
        f"{_class.__name__}-v0", f"{__name__}:{_class.__name__}", max_episode_steps=12
    )
for _name, _fault in (("VectorDisagrees", "disagrees"), ("WrongHorizon", "endless")):
    gymnasium.register(
        f"{_name}-v0",
        f"{__name__}:Line",
        vector_entry_point=f"{__name__}:LineVector",
        max_episode_steps=12,
        kwargs={"fault": _fault},
    )
gymnasium.register(
    "BorrowedVector-v0",
    f"{__name__}:Line",
    vector_entry_point="gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv",
    max_episode_steps=12,
)


class Mortal(Line):
    """Dies, hangs or fails when it comes near a goal that is above .9."""

    def __init__(self, fate="fails"):
        super().__init__()
        self.fate = fate

    def step(self, action):
        if self.task["goal"] > 0.9:
            if self.fate == "dies":
                os._exit(7)
            if self.fate == "hangs":
                time.sleep(1000)
            raise ArithmeticError("there is no bottom here")
        return super().step(action)


gymnasium.register("Mortal-v0", f"{__name__}:Mortal", max_episode_steps=12)


class OnlyHere(Line):
    """Can be made in the process that the environment variable names."""

    def __init__(self):
        super().__init__()
        if os.environ.get("METARL_TEST_PROCESS", str(os.getpid())) != str(os.getpid()):
            raise RuntimeError("made elsewhere")


gymnasium.register("OnlyHere-v0", f"{__name__}:OnlyHere", max_episode_steps=12)


class Slippery(Line):
    """Nothing wrong; tells whether it is near the goal."""

    def step(self, action):
        *result, _ = super().step(action)
        return *result, {"success": abs(self.x[0] - self.task["goal"]) < 0.3}


gymnasium.register("Slippery-v0", f"{__name__}:Slippery", max_episode_steps=12)


class Half(Line):
    """One of its two parameters does nothing."""

    def __init__(self):
        super().__init__()
        self.task_space["mass"] = spaces.Box(0.5, 2.0, (), np.float64)
        self.task = {"goal": np.array(0.5), "mass": np.array(1.0)}


class Breaks(Line):
    """Fails at its third step."""

    def reset(self, **options):
        self.steps = 0
        return super().reset(**options)

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            raise ArithmeticError("there is no bottom here")
        return super().step(action)


class LateLeak(Line):
    """Tells the goal from the first step on, beside what it drew at reset."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-10.0, 10.0, (3,), np.float64)

    def told(self):
        return 3 * float(self.task["goal"])

    def reset(self, **options):
        x, info = super().reset(**options)
        self.drawn = self.np_random.uniform()
        return np.array([x[0], self.drawn, 0.0]), info

    def step(self, action):
        x, *rest = super().step(action)
        return np.array([x[0], self.drawn, self.told()]), *rest


class FirstReward(LateLeak):
    """Nothing wrong: remembers what the first action earned, which tells of the goal."""

    def step(self, action):
        if self.fresh:
            self.kept, self.fresh = 3 * float(self.task["goal"]) * float(action[0]), False
        return super().step(action)

    def reset(self, **options):
        self.fresh = True
        return super().reset(**options)

    def told(self):
        return self.kept


for _class in (Half, Breaks, LateLeak, FirstReward):
    gymnasium.register(
        f"{_class.__name__}-v0", f"{__name__}:{_class.__name__}", max_episode_steps=12
    )


class OwnNames(Line):
    """Nothing wrong: uses names for itself that metarl reads where they are of its types."""

    def __init__(self):
        super().__init__()
        self.family, self.tasks, self.splits = "x", ["a", "b"], 3
        self.visible, self.planar = 7, "yes"


class HalfSplits(Line):
    splits = ("train", "valid")


class HalfVisible(Line):
    visible = ("goal", "weight")


class TextSplits(Line):
    splits = "train"


class TextVisible(Line):
    visible = "goal"


class FourResults(Line):
    """Steps as environments of Gym did."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class Lists(Line):
    """Nothing wrong: its observations are lists, or of another type than the space."""

    def __init__(self, form=list):
        super().__init__()
        self.form = form
        self.observation_space = spaces.Box(-10.0, 10.0, (1,), np.float32)

    def reset(self, **options):
        observation, info = super().reset(**options)
        return self.form(observation), info

    def step(self, action):
        observation, *rest = super().step(action)
        return self.form(observation), *rest


class RaggedLists(Lists):
    def step(self, action):
        observation, *rest = super().step(action)
        return [observation, observation], *rest


class GlobalTask(Line):
    def sample_task(self, generator, split):
        return {"goal": np.random.uniform(-1, 1)}


class Goals(gymnasium.Wrapper):
    """Gives its environment the task."""

    def __init__(self, env):
        super().__init__(env)
        self.task_space = spaces.Dict(goal=spaces.Box(-1.0, 1.0, (), np.float64))
        self.task = {"goal": np.array(0.5)}

    def reset(self, **options):
        self.unwrapped.place = float(self.task["goal"])
        return super().reset(**options)


class Placed(gymnasium.Env):
    """A line without a task; says `is_success`."""

    place = 0.0

    def __init__(self, render_mode=None):
        self.observation_space = spaces.Box(-10.0, 10.0, (1,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1, 1)
        return self.x.copy(), {}

    def step(self, action):
        self.x = np.clip(self.x + 0.1 * np.float64(action), -10, 10)
        distance = abs(float(self.x[0] - self.place))
        return self.x.copy(), -distance, False, False, {"is_success": distance < 0.3}


def wrapped_line():
    """The task lives in a wrapper, below another one."""
    return gymnasium.wrappers.TransformReward(Goals(Placed()), float)


class Pixels(Line):
    """Observations that no policy takes."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict(x=spaces.Sequence(self.observation_space))

    def reset(self, **options):
        x, info = super().reset(**options)
        return {"x": (x,)}, info

    def step(self, action):
        x, *rest = super().step(action)
        return {"x": (x,)}, *rest


class TaskAbsent(Line):
    def __init__(self):
        super().__init__()
        self.task = {"goal": np.array(3.0)}


class BrokenInit(Line):
    """Fails in its own code."""

    def __init__(self, error="KeyError"):
        super().__init__()
        if error == "KeyError":
            {}["missing"]
        if error == "TypeError":
            len(3)
        spaces.Box(1.0, 0.0, dtype="no such type")


class Switched(Line):
    """Its options are of several types."""

    def __init__(self, flag=None, size=1, name=""):
        super().__init__()
        self.given = (flag, size, name)


class Loud(Line):
    """Actions in ±100, and observations in thousands."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-1e5, 1e5, (1,), np.float64)
        self.action_space = spaces.Box(-100.0, 100.0, (1,), np.float32)

    def reset(self, **options):
        x, info = super().reset(**options)
        return 1e4 * x, info

    def step(self, action):
        x, *rest = super().step(action / 100)
        return 1e4 * x, *rest


class Picky(Line):
    """Takes an action as its space samples it, and nothing else."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Discrete(2)

    def step(self, action):
        assert isinstance(action, (int, np.integer)), type(action)
        return super().step([2.0 * action - 1])


for _class in (
    *(OwnNames, HalfSplits, HalfVisible, Pixels, TaskAbsent, BrokenInit, Switched, Loud, Picky),
    *(TextSplits, TextVisible, FourResults, Lists, RaggedLists, GlobalTask),
):
    gymnasium.register(
        f"{_class.__name__}-v0", f"{__name__}:{_class.__name__}", max_episode_steps=12
    )
gymnasium.register("WrappedLine-v0", f"{__name__}:wrapped_line", max_episode_steps=12)


def normalised_line(frozen=False):
    env = gymnasium.wrappers.NormalizeObservation(gymnasium.wrappers.NormalizeReward(Line()))
    if frozen:
        env.update_running_mean = env.env.update_running_mean = False
    return env


for _name, _frozen in (("Running", False), ("Frozen", True)):
    gymnasium.register(
        f"{_name}-v0",
        f"{__name__}:normalised_line",
        max_episode_steps=12,
        kwargs={"frozen": _frozen},
    )


class Sled(Placed):
    """Computes a number from others when it is made, and reads it in each step."""

    def __init__(self, mass=1.0, load=0.5, render_mode=None):
        super().__init__(render_mode)
        self.mass, self.load, self.gears, self.lit = mass, load, 2, True
        self.total = self.mass + self.load
        self.double = 2 * mass  # of the argument
        self.unused = self.mass / 2
        self.late = 0.0

    def step(self, action):
        self.late = 3 * self.mass
        return super().step(action / self.mass / self.total / self.double)


def derive_sled(sled):
    sled.total = sled.mass + sled.load
    sled.double = 2 * sled.mass


gymnasium.register("Sled-v0", f"{__name__}:Sled")
for _name, _derive in (("SledStale", ""), ("SledDerived", f"{__name__}:derive_sled")):
    gymnasium.register(
        f"{_name}-v0",
        "metarl.tasks.parameterised:ParameterisedEnv",
        max_episode_steps=12,
        kwargs={"env_id": "Sled-v0", "parameters": {"mass": ["mass", 0.5, 3.0]}, "derive": _derive},
    )
