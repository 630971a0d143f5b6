"""The simulations of a learner, which are kept from rollout to rollout."""

from metarl.learners.config import FamilyRunConfig
from metarl.sampling.info import InfoMetric, expect_reported
from metarl.simulation.backends import (
    Processes,
    choose_backend,
    device_of,
    expect_info,
    make_simulations,
)
from metarl.simulation.physics import WarpOptions
from metarl.simulation.protocol import Simulation
from metarl.tasks.family import TaskFamily

LEAST_ENVIRONMENTS = 64
"""Environments stepped one at a time that may exist at once, however few training has."""


class Simulations:
    """Makes simulations for a number of tasks when they are first asked for."""

    def __init__(self, family: TaskFamily, config: FamilyRunConfig, threads: int):
        """Chooses the backend, so that a wrong choice fails here.

        Raises:
            UsageError: there is no such backend, it cannot step the family, or the environments
                do not report a number of `--info-metrics`.

        """
        self._family, self._config, self._threads = family, config, threads
        self.info = tuple(map(InfoMetric.parse, config.info_metrics))
        """The numbers in the environments' info that rollouts have."""
        self._backend, backend = choose_backend(family, config.environments, config.simulation)
        self.device = device_of(backend)
        self._one_by_one = bool(getattr(backend, "one_by_one", False))
        if self.info:
            expect_info(self._backend, backend)
            expect_reported(self.info, family, config.worker_timeout)
        self.kept: dict[tuple[int, int], list[Simulation]] = {}
        """By the numbers of tasks and of their episodes."""

    def of(self, tasks: int, episodes: int) -> list[Simulation]:
        """Simulations that take so many tasks, in rounds if they are stepped one at a time."""
        size = (self._at_once(tasks, episodes), episodes)
        if size not in self.kept:
            config = self._config
            if config.workers:
                self.close()  # a second pool of processes would only wait beside the first
            self.kept[size] = make_simulations(
                self._family,
                *size,
                self._threads,
                Processes(config.workers, config.worker_timeout),
                self._backend,
                [metric.name for metric in self.info],
                WarpOptions(
                    config.warp_contacts, config.warp_constraints, config.warp_deterministic
                ),
            )
        return self.kept[size]

    def close(self) -> None:
        """Closes the simulations."""
        for simulations in self.kept.values():
            for simulation in simulations:
                simulation.close()
        self.kept = {}

    def _at_once(self, tasks: int, episodes: int) -> int:
        """The tasks of a round of sampling: a divisor, so that all rounds have as many.

        Environments that are stepped one at a time are not faster if they are more than in
        training, and an evaluation may need thousands, each with its memory.
        """
        if not self._one_by_one:
            return tasks
        most = max(self._config.environments, LEAST_ENVIRONMENTS) // episodes
        return max(n for n in range(1, max(1, min(tasks, most)) + 1) if tasks % n == 0)
