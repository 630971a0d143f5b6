"""Families with dynamics of their own: the declared `transition` steps all states at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metarl.simulation.declared import DeclaredEnv, DeclaredVectorEnv, Ids
from metarl.support.randomness import uniform_numbers
from metarl.tasks.declaration import DynamicsFamily, load_declaration
from metarl.tasks.task import Tasks, select_tasks


class DynamicsPhysics:
    """States [n, state] in an array, stepped by the family's transition."""

    def __init__(self, family: DynamicsFamily, number: int):
        self.action_space = family.action_space
        self._family = family
        example = family.initial(np.random.default_rng(0))
        self._states = np.zeros((number, *example.shape), example.dtype)
        self._tasks: Tasks = {}
        self._seeds = np.zeros(number, np.uint64)
        self._steps = np.zeros(number, np.uint64)

    def reset(self, ids: np.ndarray, generators: Sequence[np.random.Generator]) -> None:
        """First states of the environments."""
        for i, generator in zip(ids, generators, strict=True):
            self._states[i] = self._family.initial(generator)
            if self._family.noise_size:
                self._seeds[i] = generator.integers(2**64, dtype=np.uint64)
        self._steps[ids] = 0

    def configure(self, ids: np.ndarray, tasks: Tasks) -> None:
        """Keeps the tasks for `transition`."""
        for name, values in tasks.items():
            if name not in self._tasks:
                self._tasks[name] = np.zeros((len(self._states), *values.shape[1:]), values.dtype)
            self._tasks[name][ids] = values

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Actions as they are."""
        return actions

    def step(self, ids: Ids, controls: np.ndarray) -> np.ndarray:
        """Applies the transition."""
        index = slice(None) if ids is None else ids
        tasks = select_tasks(self._tasks, index)
        noise = uniform_numbers(self._seeds[index], self._steps[index], self._family.noise_size)
        self._steps[index] += np.uint64(1)
        self._states[index] = self._family.transition(self._states[index], controls, tasks, noise)
        return np.zeros(len(controls), bool)

    def state(self) -> np.ndarray:
        """A copy of the states."""
        return self._states.copy()


class DynamicsEnv(DeclaredEnv):
    """Entry point of a single environment; `options` are those of the family."""

    def __init__(
        self, family: str | DynamicsFamily, render_mode: str | None = None, **options: Any
    ):
        declaration = load_declaration(family, options)
        super().__init__(declaration, DynamicsPhysics(declaration, 1), render_mode)
        self._path: list[np.ndarray] = []

    @property
    def planar(self) -> bool:
        """Whether the observation is a place in the plane."""
        return self.observation_space.shape == (2,)

    def render(self) -> np.ndarray | None:
        """The way of a point in the plane since the episode began, as far as it was rendered, and
        the task's goal if it has one: [240, 320, 3]; None of other families.
        """
        if self.render_mode is None or not self.planar:
            return None
        if self.elapsed == 0:
            self._path = []
        self._path.append(self.family.observe(self.physics.state())[0])
        figure = Figure((3.2, 2.4), dpi=100, layout="constrained")
        axes = figure.subplots()
        axes.plot(*np.transpose(self._path), ".-")
        goal = self.task.get("goal", 0.0)
        if np.shape(goal) == (2,):
            axes.plot(*goal, "*", markersize=12)
            # The same in all frames, so that the eye can follow and compare.
            goals: Any = self.task_space["goal"]
            reach = 1.25 * float(np.abs(goals.high).max())
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.set_aspect("equal")
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class DynamicsVectorEnv(DeclaredVectorEnv):
    """Entry point of a vector environment; `options` are those of the family."""

    def __init__(
        self,
        num_envs: int,
        family: str | DynamicsFamily,
        max_episode_steps: int | None = None,
        threads: int = 0,
        **options: Any,
    ):
        """`threads` is not used: one array operation steps all environments."""
        declaration = load_declaration(family, options)
        physics = DynamicsPhysics(declaration, num_envs)
        super().__init__(declaration, physics, num_envs, max_episode_steps)
