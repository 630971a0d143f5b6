"""A declared family as a Gymnasium environment: a simulation of one environment."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
import numpy.typing as npt

from metarl.simulation.physics import Physics
from metarl.tasks.declaration import DeclaredFamily
from metarl.tasks.task import Task, stack_tasks, validate_tasks

if TYPE_CHECKING:
    from metarl.simulation.declared import DeclaredSimulation


class DeclaredEnv(gymnasium.Env):
    """One environment of a declared family: a simulation of size 1 without the batch dimension.

    `reset(seed=s)` uses s as the stream, so that a simulation with that stream has the same
    episode. Without a seed, the stream is drawn from `np_random`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, family: DeclaredFamily, physics: Physics, render_mode: str | None = None):
        self.family = family
        self.physics = physics
        self.render_mode = render_mode
        self.observation_space = family.observation_space
        self.action_space = physics.action_space
        self._distribution = family.tasks
        self.task_space = self._distribution.space
        self.splits = self._distribution.splits
        self.task = self._distribution.sample(np.random.default_rng(0), "train")
        self.elapsed = 0
        """Steps since the last reset."""

    @functools.cached_property
    def _simulation(self) -> "DeclaredSimulation":
        # Imported here, because making an environment to read its spaces must not import torch.
        from metarl.simulation.declared import DeclaredSimulation

        return DeclaredSimulation(self.family, self.physics, 1, info=None)

    @property
    def task(self) -> Task:
        """The task that takes effect at the next reset."""
        return {name: value.copy() for name, value in self._task.items()}

    @task.setter
    def task(self, task: Mapping[str, npt.ArrayLike]) -> None:
        self._task = validate_tasks(self.task_space, task, None)

    def sample_task(self, generator: np.random.Generator, split: str) -> Task:
        """Draws a task of a split from the declaration."""
        return self._distribution.sample(generator, split)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[np.ndarray, dict[str, object]]:
        """Starts an episode of the task."""
        super().reset(seed=seed)
        stream = self.np_random.integers(2**63) if seed is None else seed
        self.elapsed = 0
        observations = self._simulation.begin(
            stack_tasks([self._task]), np.array([stream], np.uint64)
        )
        return observations[0].numpy().copy(), {}

    def step(
        self, action: npt.ArrayLike
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        """Takes one step."""
        actions = self._simulation.tensor(np.asarray(action)[None])
        step = self._simulation.step(actions)
        self.elapsed += 1
        return (
            step.observations[0].numpy().copy(),
            float(step.rewards[0]),
            bool(step.terminated[0]),
            bool(step.truncated[0]),
            {
                **{name: float(values[0]) for name, values in self._simulation.numbers.items()},
                "unstable": bool(step.failed[0]),
            },
        )
