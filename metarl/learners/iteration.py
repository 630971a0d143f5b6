"""An iteration of training happens as a whole, or leaves the learner as it was."""

import copy
import functools
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from metarl.learners.config import RunConfig
from metarl.support.errors import NonFiniteError
from metarl.support.finite import expect_finite_state
from metarl.support.types import State

logger = logging.getLogger(__name__)

OF_ENVIRONMENTS = ("info/",)
"""Metrics with these prefixes are the user's own numbers, which may be infinite or NaN."""


class Iterates(Protocol):
    """What an iteration is of; see `BaseLearner`."""

    config: RunConfig
    name: str
    remedy: str
    iteration: int
    dropped: frozenset[int]

    def state(self) -> State:
        """All that an iteration changes."""

    def load_state(self, state: State) -> None:
        """Continues from `state()`."""

    def nothing_learned(self) -> dict[str, float]:
        """The metrics of an iteration without an update."""


L = TypeVar("L", bound=Iterates)


def whole(iterate: Callable[[L], dict[str, float]]) -> Callable[[L], dict[str, float]]:
    """The method `iterate`, which changes nothing if it fails.

    Afterwards all numbers of the learner's state are finite. Where one is not, or one of its
    metrics is infinite or NaN, --non-finite says what follows. `drop-task` repeats the iteration
    with the same random numbers and without the tasks in `dropped`.
    """

    @functools.wraps(iterate)
    def iterated(self: L) -> dict[str, float]:
        before = copy.deepcopy(self.state())
        choice, counts = self.config.non_finite, {}
        while True:
            try:
                metrics = iterate(self)
                _expect_finite(self, metrics)
                break
            except BaseException as error:
                self.load_state(copy.deepcopy(before))
                if not isinstance(error, NonFiniteError) or choice == "stop":
                    self.dropped = frozenset()
                    raise
                more = self.dropped.union(error.tasks)
                logger.warning("%s", error)
                if choice == "drop-task" and more != self.dropped:
                    self.dropped = more
                    continue
                self.iteration += 1
                metrics = self.nothing_learned()
                counts["non_finite/skipped"] = 1.0
                break
        if choice != "stop":
            counts = {"non_finite/skipped": 0.0, **counts}
            counts["non_finite/dropped_tasks"] = float(len(self.dropped))
        self.dropped = frozenset()
        return metrics | counts

    return iterated


def _expect_finite(learner: Iterates, metrics: dict[str, float]) -> None:
    """Checks what an iteration has left behind."""
    own = {name: x for name, x in metrics.items() if not name.startswith(OF_ENVIRONMENTS)}
    try:
        expect_finite_state(own)
        expect_finite_state(learner.state())
    except NonFiniteError as error:
        where = f"{learner.name}, after iteration {learner.iteration}"
        raise NonFiniteError(f"{error} ({where}); try {learner.remedy}") from None
