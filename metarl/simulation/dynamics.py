"""Families with dynamics of their own: the declared `transition` steps all states at once."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from gymnasium import spaces

from metarl.simulation.physics import call
from metarl.simulation.single import DeclaredEnv
from metarl.support.errors import UsageError
from metarl.tasks.declaration import Array, DynamicsFamily, load_declaration
from metarl.tasks.noise import Noise, Purpose
from metarl.tasks.task import Tasks


class DynamicsPhysics:
    """States [n, state] that the family's transition steps, in NumPy or torch like their tasks.

    No method reads a value on the host, so that a GPU never has to wait.
    """

    def __init__(self, family: DynamicsFamily, number: int):
        self.action_space = family.action_space
        self._family = family
        self._number = number

    def begin(self, tasks: Tasks, streams: Array) -> None:
        """Draws the first states of the environments."""
        self._tasks = tasks
        self._noise = Noise(streams, Purpose.TRANSITION)
        self._states = call(self._family, "initial", Noise(streams, Purpose.RESET))
        if len(self._states) != self._number:
            raise UsageError(
                f"{type(self._family).__name__}: initial returns shape {tuple(self._states.shape)} "
                f"for {self._number} environments, not ({self._number}, ...): draw from the noise"
            )

    def step(self, actions: Array, active: Array, step: Array) -> tuple[Array, None]:
        """Applies the transition to the active environments."""
        noise = self._noise.uniform_at(step, self._family.noise_size)
        before = self._states
        after = call(self._family, "transition", before, actions, self._tasks, noise)
        xp = array_namespace(before)
        moves = active[(..., *(None for _ in before.shape[1:]))]
        self._states[...] = xp.where(moves, after, before)  # in place, so that it can be captured
        return actions, None

    def state(self) -> Array:
        """A copy of the states."""
        return array_namespace(self._states).asarray(self._states, copy=True)


class DynamicsEnv(DeclaredEnv):
    """Entry point of a single environment; `options` are those of the family."""

    def __init__(
        self, family: str | DynamicsFamily, render_mode: str | None = None, **options: object
    ):
        declaration = load_declaration(family, options)
        super().__init__(declaration, DynamicsPhysics(declaration, 1), render_mode)
        self._path: list[np.ndarray] = []

    @property
    def planar(self) -> bool:
        """Whether the observation is a point in the plane."""
        return self.observation_space.shape == (2,)

    def render(self) -> np.ndarray | None:
        """Draws the path of a point in the plane, and the task's goal if it has one: [240, 320, 3].

        The path has a point for each call since the episode began. Other families return None.
        """
        if self.render_mode is None or not self.planar:
            return None
        if self.elapsed == 0:
            self._path = []
        self._path.append(self.family.observe(self.physics.state())[0])
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure((3.2, 2.4), dpi=100, layout="constrained")
        axes = figure.subplots()
        axes.plot(*np.transpose(self._path), ".-")
        goal = self.task.get("goal", 0.0)
        if np.shape(goal) == (2,):
            axes.plot(*goal, "*", markersize=12)
            # The limits are the same in all frames, so that frames can be compared.
            goals = self.task_space["goal"]
            assert isinstance(goals, spaces.Box)  # as every distribution's
            reach = 1.25 * float(np.abs(goals.high).max())
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.set_aspect("equal")
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
