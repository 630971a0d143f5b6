"""Meta-World: robot arms that learn manipulation, with held-out goals (ML1) or environments.

Source: Yu et al. 2019 (arXiv 1910.10897); McLean et al. 2025 (Meta-World+, arXiv 2505.11289). It
needs a virtual environment of its own, because Meta-World pins MuJoCo 3.3.0:
`pip install "metarl-suite[metaworld]"`. Importing this module registers its families:
`envs.metaworld:ML10-v0`.
"""

import functools
from collections.abc import Mapping
from typing import Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from metarl.support.errors import UsageError
from metarl.tasks.task import Task, validate_tasks

VARIATIONS = 50  # goals and object positions of each environment


class Variation(Protocol):
    """A goal and object positions: Meta-World's `Task`."""

    env_name: str


class Arm(Protocol):
    """What is used of Meta-World's environments."""

    def set_task(self, task: Variation, /) -> None:
        """Sets the goal and the object positions."""

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, object]]:
        """The first observation [39] and the info."""

    def step(
        self, action: np.ndarray, /
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        """Observation, reward, terminated, truncated and info."""


@functools.cache
def load_benchmark(name: str, environment: str) -> dict[str, tuple[type[Arm], list[Variation]]]:
    """The class and the tasks of each environment; those for training come first.

    ML1 trains and tests on the same environment, of which the tasks for training come first.

    Raises:
        UsageError: Meta-World is not installed, or has no such environment.

    """
    try:
        import metaworld
    except ImportError as error:
        raise UsageError(
            f'Meta-World cannot be imported ({error}): run pip install "metarl-suite[metaworld]" '
            "in a virtual environment of its own"
        ) from error
    if name == "ML1":
        if environment not in metaworld.ML1.ENV_NAMES:
            raise UsageError(
                f"Meta-World has no environment {environment}; a known one is reach-v3"
            )
        benchmark = metaworld.ML1(environment, seed=0)
    else:
        benchmark = getattr(metaworld, name)(seed=0)
    loaded: dict[str, tuple[type[Arm], list[Variation]]] = {}
    for classes, tasks in (
        (benchmark.train_classes, benchmark.train_tasks),
        (benchmark.test_classes, benchmark.test_tasks),
    ):
        for own, env_class in classes.items():
            _, known = loaded.setdefault(own, (env_class, []))
            known += [task for task in tasks if task.env_name == own]
    return loaded


class MetaWorld(gymnasium.Env):
    """A benchmark: the task is an environment and one of its variations; the goal is hidden.

    ML1 trains on the first 50 variations of `environment` and tests on the other 50; ML10, ML25 and
    ML45 train on 50 variations of their training environments, and test on those of five others.
    `info["success"]` is that of Meta-World.
    """

    metadata = {"render_modes": []}
    visible = ("environment",)  # its objects show it; the policy has to infer the goal

    def __init__(self, benchmark: str, environment: str = "reach-v3"):
        self._loaded = load_benchmark(benchmark, environment if benchmark == "ML1" else "")
        self.names = list(self._loaded)
        """Names of the environments, in the order of their numbers in tasks."""
        one = benchmark == "ML1"
        self._training = 1 if one else int(benchmark.removeprefix("ML"))
        self.task_space = spaces.Dict(
            environment=spaces.Discrete(len(self.names)),
            variation=spaces.Discrete(2 * VARIATIONS if one else VARIATIONS),
        )
        self.observation_space = spaces.Box(-np.inf, np.inf, (39,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.splits = ("train", "test")
        self._one = one
        self._made: dict[str, Arm] = {}
        self.task = {"environment": 0, "variation": 0}

    @property
    def task(self) -> Task:
        """The task that takes effect at the next reset."""
        return dict(self._task)

    @task.setter
    def task(self, task: Mapping[str, npt.ArrayLike]) -> None:
        self._task = validate_tasks(self.task_space, task, None)

    def sample_task_set(
        self, generator: np.random.Generator, split: str, number: int
    ) -> list[Task]:
        """Draws tasks of a split; test has held-out goals or held-out environments.

        The environments take turns, and no variation comes again before all others of its
        environment, as in Meta-World's own benchmarks (`meta_batch_size` and `pseudorandom`). Where
        each has as many turns, they come in the same order each time: the place of a task in a
        meta-batch then needs the memory of one arm alone.
        """
        test = split == "test"
        held_out = test and not self._one
        low, high = (self._training, len(self.names)) if held_out else (0, self._training)
        first = VARIATIONS if test and self._one else 0
        turns = np.arange(low, high)
        if number % len(turns):
            turns = generator.permutation(turns)
        orders = generator.permuted(np.tile(np.arange(VARIATIONS), (len(turns), 1)), axis=1)
        rounds, turn = np.divmod(np.arange(number), len(turns))
        variations = first + orders[turn, rounds % VARIATIONS]
        return [
            {"environment": e, "variation": v} for e, v in zip(turns[turn], variations, strict=True)
        ]

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[np.ndarray, dict[str, object]]:
        """Places the arm, the objects and the hidden goal as the task specifies."""
        super().reset(seed=seed)
        name = self.names[int(self._task["environment"])]
        env_class, variations = self._loaded[name]
        if name not in self._made:
            self._made[name] = env_class()
        self.current = self._made[name]
        self.current.set_task(variations[int(self._task["variation"])])
        observation, _ = self.current.reset(seed=seed)
        return observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        """Takes one control step; only the family's horizon truncates episodes."""
        observation, reward, terminated, _, info = self.current.step(action)
        return observation, float(reward), terminated, False, {"success": info["success"]}


for _name in ("ML1", "ML10", "ML25", "ML45"):
    if f"{_name}-v0" not in gymnasium.registry:  # this file is also a module of `metarl_envs`
        gymnasium.register(
            f"{_name}-v0",
            entry_point="metarl_envs.metaworld:MetaWorld",
            max_episode_steps=500,
            kwargs={"benchmark": _name},
        )
