"""An environment that misbehaves in the way that its options name; the kinds are in `KINDS`."""

import ctypes
import os
import signal
import threading
import time

import gymnasium
import numpy as np
from faulty_families import Line
from gymnasium import spaces


class UnpicklableError(Exception):
    """Holds a lock."""

    def __init__(self):
        super().__init__("has a lock")
        self.lock = threading.Lock()


class WithoutTextError(Exception):
    def __str__(self):
        raise ValueError("no text")


class TextExitsError(Exception):
    def __str__(self):
        raise SystemExit(0)

    __repr__ = __str__


def recurse():
    recurse()


def thrown(error):
    def throw():
        raise error

    return throw


RAISES = {
    "exit-0": thrown(SystemExit(0)),
    "exit-text": thrown(SystemExit("that was all")),
    "stop-iteration": thrown(StopIteration()),
    "generator-exit": thrown(GeneratorExit()),
    "interrupt": thrown(KeyboardInterrupt()),
    "memory": thrown(MemoryError("too large")),
    "pipe": thrown(BrokenPipeError(32, "Broken pipe")),
    "recursion": recurse,
    "unpicklable": lambda: thrown(UnpicklableError())(),
    "without-text": thrown(WithoutTextError()),
    "text-exits": thrown(TextExitsError()),
    "arithmetic": thrown(ArithmeticError("there is no bottom here")),
    "assertion": thrown(AssertionError()),
    "disk": thrown(OSError(28, "No space left on device")),
    "end-of-file": thrown(EOFError()),
    "reset-by-peer": thrown(ConnectionResetError()),
    "timeout": thrown(TimeoutError("5 s")),
    "group": thrown(BaseExceptionGroup("two", [ValueError("a"), SystemExit(0)])),
    "long": thrown(ValueError("x" * 1_000_000)),
    "lines": thrown(ValueError("a\nb\n" * 500)),
    "unicode": thrown(ValueError("\udcff \x1b[2J\0")),
    "key": lambda: {}["missing"],
}
OFTEN = ("exit-0", "stop-iteration", "generator-exit", "interrupt", "pipe", "without-text", "lines")
"""Errors that are raised in every place; the others in `step` alone."""
PLACES = ("__init__", "reset", "step", "task", "sample_task", "close", "task_space")


class Odd:
    """No array, and no text either."""

    def __repr__(self):
        raise ValueError("no text")


OBSERVATIONS = {
    "short": np.zeros(1),
    "long": np.zeros(3),
    "column": np.zeros((2, 1)),
    "complex": np.zeros(2, complex),
    "text": "ab",
    "texts": np.array(["1.5", "2.5"]),
    "none": None,
    "ragged": [[1.0], [1.0, 2.0]],
    "number": 1.0,
    "dict": {"x": np.zeros(2)},
    "object": Odd(),
    "nan": np.full(2, np.nan),
    "inf": np.array([0.0, np.inf]),
}
REWARDS = {
    "text": "1.5",
    "none": None,
    "complex": 1.0 + 2.0j,
    "two": np.zeros(2),
    "list": [],
    "nan": float("nan"),
    "inf": float("-inf"),
    "huge": 10**400,
    "bytes": b"1",
    "dict": {},
    "object": Odd(),
}
FLAGS = {
    "text": "False",
    "none": None,
    "two": np.array([True, False]),
    "number": 2,
    "nan": float("nan"),
    "list": [],
}
INFOS = {"none": None, "list": [], "text": "info", "number": 3}
WHOLE_RESETS = {
    "observation": np.zeros(2),
    "three": (np.zeros(2), {}, {}),
    "list": [np.zeros(2), {}],
    "none": None,
    "dict": {"observation": 1, "info": 2},
}
WHOLE_STEPS = {
    "four": (np.zeros(2), 0.0, False, {}),
    "six": (np.zeros(2), 0.0, False, False, {}, {}),
    "none": None,
    "text": "abcde",
}
TASKS = {
    "none": None,
    "list": [0.5],
    "missing": {},
    "extra": {"goal": 0.5, "mass": 1.0},
    "shape": {"goal": np.zeros(3)},
    "outside": {"goal": 7.0},
    "nan": {"goal": float("nan")},
    "text": {"goal": "0.5"},
    "complex": {"goal": 1j},
    "no-value": {"goal": None},
    "ragged": {"goal": [[1.0], [1.0, 2.0]]},
    "key": {3: 0.5},
}
SPACES = {
    "empty": spaces.Dict(),
    "nested": spaces.Dict(a=spaces.Dict(goal=spaces.Box(-1.0, 1.0, ()))),
    "box": spaces.Box(-1.0, 1.0, ()),
    "none": None,
    "text": spaces.Dict(goal=spaces.Text(5)),
    "sequence": spaces.Dict(goal=spaces.Sequence(spaces.Discrete(3))),
    "unbounded": spaces.Dict(goal=spaces.Box(-np.inf, np.inf, ())),
    "no-numbers": spaces.Dict(goal=spaces.Box(-1.0, 1.0, (0,))),
    "number": 5,
}
ACTION_SPACES = {
    "no-numbers": spaces.Box(-1.0, 1.0, (0,)),
    "tuple": spaces.Tuple([spaces.Discrete(2)]),
    "none": None,
}
OBSERVATION_SPACES = {
    "no-numbers": spaces.Box(-1.0, 1.0, (0,)),
    "sequence": spaces.Sequence(spaces.Discrete(3)),
    "none": None,
}


def fork():
    if not os.fork():
        return  # the new process goes on, as if it were the old one
    os.wait()


ENDS = {
    "exit-3": lambda: os._exit(3),
    "exit-0": lambda: os._exit(0),
    "abort": os.abort,
    "segmentation": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fork": fork,
}
HANGS = {
    "sleep": lambda: time.sleep(10_000),
    "loop": lambda: [None for _ in iter(int, 1)],
    "c": lambda: sum(range(10**15)),
}

KINDS = {
    **{f"raise {e} in step": None for e in RAISES},
    **{f"raise {e} in {place}": None for place in PLACES for e in OFTEN},
    **{f"observation {o} of {call}": None for call in ("reset", "step") for o in OBSERVATIONS},
    **{f"reward {r}": None for r in REWARDS},
    **{f"{flag} {f}": None for flag in ("terminated", "truncated") for f in FLAGS},
    **{f"info {i} of {call}": None for call in ("reset", "step") for i in INFOS},
    **{f"result {r} of reset": None for r in WHOLE_RESETS},
    **{f"result {r} of step": None for r in WHOLE_STEPS},
    **{f"drawn {t}": None for t in TASKS},
    **{f"task_space {s}": None for s in SPACES},
    **{f"action_space {s}": None for s in ACTION_SPACES},
    **{f"observation_space {s}": None for s in OBSERVATION_SPACES},
    **{f"end {e} in step": None for e in ENDS},
    **{f"hang {h} in step": None for h in HANGS},
    **{f"hang sleep in {place}": None for place in PLACES if place not in ("step", "task_space")},
    "million task numbers": None,
}
"""What an environment can do; a dict, because it has an order and nothing twice."""


class Misbehaves(Line):
    """Fulfils its contract in all but the one way of `kind`, from the reset `after` on."""

    resets = 0
    """Of all environments of this process."""

    def __init__(self, kind="nothing", after=0):
        self.kind, self.after = kind, int(after)
        super().__init__()
        self.observation_space = self.chosen("observation_space", OBSERVATION_SPACES) or spaces.Box(
            -10.0, 10.0, (2,), np.float64
        )
        self.action_space = self.chosen("action_space", ACTION_SPACES) or self.action_space
        if kind in ("observation_space none", "action_space none"):
            setattr(self, kind.split()[0], None)
        if kind == "million task numbers":
            self._task_space = spaces.Dict(goal=spaces.Box(-1.0, 1.0, (1_000_000,), np.float64))
            self._task = {"goal": np.zeros(1_000_000)}
        self.do("__init__")

    def chosen(self, name, choices, default=None):
        what, _, rest = self.kind.partition(" ")
        return choices[rest] if what == name else default

    def do(self, place):
        """Raises, ends or hangs, if this is the place."""
        act, _, rest = self.kind.partition(" ")
        how, _, where = rest.partition(" in ")
        late = type(self).resets > self.after or place in ("__init__", "close", "task_space")
        if where == place and late:
            {"raise": RAISES, "hang": HANGS, "end": ENDS}[act][how]()

    @property
    def active(self):
        return type(self).resets > self.after

    @property
    def task_space(self):
        if self.kind.startswith("task_space "):
            return SPACES[self.kind.split()[1]]
        if hasattr(self, "observation_space"):
            self.do("task_space")
        return self._task_space

    @task_space.setter
    def task_space(self, space):
        self._task_space = space

    @property
    def task(self):
        return self._task

    @task.setter
    def task(self, task):
        if self.kind.endswith("in task") and hasattr(self, "_task"):
            self.do("task")
        self._task = task

    def sample_task(self, generator, split):
        if "sample_task" in self.kind:
            type(self).resets += 10**6
            self.do("sample_task")
        if self.kind.startswith("drawn "):
            return TASKS[self.kind.split()[1]]
        low = {"train": -1.0, "test": 0.0}[split]
        shape = self._task_space["goal"].shape
        return {"goal": generator.uniform(low, low + 1, shape)}

    def returned(self, call, x):
        if self.active and self.kind.startswith("observation ") and self.kind.endswith(call):
            return OBSERVATIONS[self.kind.split()[1]]
        return np.array([x[0], 0.0])

    def info_of(self, call):
        if self.active and self.kind.startswith("info ") and self.kind.endswith(call):
            return INFOS[self.kind.split()[1]]
        return {}

    def reset(self, **options):
        type(self).resets += 1
        if self.kind == "million task numbers":
            self.np_random  # noqa: B018 (made)
        x, _ = super().reset(**options)
        self.do("reset")
        if self.active and self.kind.startswith("result ") and self.kind.endswith("reset"):
            return WHOLE_RESETS[self.kind.split()[1]]
        return self.returned("reset", x), self.info_of("reset")

    def step(self, action):
        self.do("step")
        goal = float(np.mean(self.task["goal"]))
        self.x = np.clip(self.x + 0.1 * np.float64(action), -10, 10)
        reward = -abs(float(self.x[0] - goal))
        if self.active and self.kind.startswith("result ") and self.kind.endswith("step"):
            return WHOLE_STEPS[self.kind.split()[1]]
        terminated = truncated = False
        if self.active:
            reward = self.chosen("reward", REWARDS, reward)
            terminated = self.chosen("terminated", FLAGS, False)
            truncated = self.chosen("truncated", FLAGS, False)
        return self.returned("step", self.x), reward, terminated, truncated, self.info_of("step")

    def close(self):
        self.do("close")


gymnasium.register("Misbehaves-v0", f"{__name__}:Misbehaves", max_episode_steps=3)
