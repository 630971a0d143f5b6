"""An iteration of training happens as a whole, or leaves the learner as it was."""

import contextlib
import copy
import functools
import logging
import reprlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from metarl.learners.config import RunConfig
from metarl.support.errors import FamilyError, NonFiniteError, UsageError, is_out_of_memory
from metarl.support.finite import expect_finite_state
from metarl.support.foreign import expect_metrics
from metarl.support.places import described, place_in_called_code, text_of
from metarl.support.signals import is_request_to_end
from metarl.support.types import State

logger = logging.getLogger(__name__)

OF_ENVIRONMENTS = ("info/",)
"""Metrics with these prefixes are the user's own numbers, which may be infinite or NaN."""


class Iterates(Protocol):
    """What an iteration is of; see `BaseLearner`."""

    config: RunConfig
    name: str
    remedy: str
    measure: str
    iteration: int
    drops_tasks: ClassVar[bool]
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
        before, begun = _copied(self, self.state()), self.iteration
        choice, counts = self.config.non_finite, {}
        if choice == "drop-task" and not self.drops_tasks:
            raise UsageError(
                f"--non-finite drop-task: {type(self).__name__} does not leave tasks out "
                "(drops_tasks); stop and skip are possible"
            )
        while True:
            try:
                metrics = iterate(self)
                _expect_iterated(self, metrics, begun)
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


def _copied(learner: Iterates, state: State) -> State:
    """A copy of a learner's state.

    Raises:
        UsageError: it is no dict, or it holds something that cannot be copied: no checkpoint can
            have it.

    """
    wanted = f"{type(learner).__name__}: state() must return a dict of tensors and plain types"
    if not isinstance(state, dict):
        raise UsageError(f"{wanted}, not {reprlib.repr(state)}")
    if "iteration" not in state:
        raise UsageError(f"{wanted} with an entry iteration; it has {', '.join(map(str, state))}")
    copied: State = {}
    memo: dict[int, Any] = {}  # of all parts, which may share tensors
    for name, part in state.items():
        try:
            copied[name] = copy.deepcopy(part, memo)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            what = f"its {name} cannot be copied: {text_of(error)}"
            raise UsageError(f"{wanted}; {what}") from error
    return copied


def _expect_iterated(learner: Iterates, metrics: dict[str, float], begun: int) -> None:
    """Checks what an iteration after `begun` others returned and counted.

    Raises:
        UsageError: metrics that every learner has are missing or are no numbers, or the learner's
            number of iterations is not one more than before.

    """
    whose = f"{type(learner).__name__}.iterate"
    expect_metrics(metrics, whose)
    needed = ("iteration", *(f"{learner.measure}/{when}" for when in ("before", "after")))
    if missing := [name for name in needed if name not in metrics]:
        raise UsageError(f"{whose}: the metrics lack {', '.join(missing)}")
    if learner.iteration != begun + 1:
        counted = f"which was {begun} and is {learner.iteration}"
        raise UsageError(f"{whose} must add 1 to self.iteration, {counted}")
    if metrics["iteration"] != learner.iteration:
        wanted = f"self.iteration, {learner.iteration}, not {metrics['iteration']:g}"
        raise UsageError(f"{whose}: the metric iteration must be {wanted}")


def _expect_finite(learner: Iterates, metrics: dict[str, float]) -> None:
    """Checks what an iteration has left behind."""
    own = {name: x for name, x in metrics.items() if not name.startswith(OF_ENVIRONMENTS)}
    try:
        expect_finite_state(own)
        expect_finite_state(learner.state())
    except NonFiniteError as error:
        where = f"{learner.name}, after iteration {learner.iteration}"
        raise NonFiniteError(f"{error} ({where}); try {learner.remedy}") from None


@contextlib.contextmanager
def located(
    where: Sequence[str],
    remedy: str,
    named: Callable[[int], tuple[int, str]],
    exchange: Callable[[Any], list[Any]] | None = None,
) -> Iterator[None]:
    """Says of an error in the block where it arose.

    Args:
        where: the place, in parts.
        remedy: what to try where a number is infinite or NaN.
        named: a task of the block -> its number among all, and its name.
        exchange: tells all processes, each of which must enter the block; None: this one alone.

    Raises:
        NonFiniteError: the block raised one, in any of the processes; its tasks are numbered among
            all.
        FamilyError: the user's own code raised an error of another kind.

    """
    found, cause = None, None
    try:
        yield
    except NonFiniteError as error:
        tasks = [named(task) for task in error.tasks]
        first = [f"task {', '.join(filter(None, map(str, task)))}" for task in tasks[:1]]
        text = f"{error} ({', '.join([*where, *first])}); try {error.remedy or remedy}"
        found, cause = (text, [number for number, _ in tasks]), error
    except (UsageError, FamilyError):
        raise
    except BaseException as error:
        foreign = place_in_called_code(error) is not None
        if not foreign or is_request_to_end(error) or is_out_of_memory(error):
            raise
        raise FamilyError(f"{described(error)} ({', '.join(where)})") from error
    told = [one for one in (exchange(found) if exchange else [found]) if one is not None]
    if told:
        every = {task for _, own in told for task in own}
        text = next((text for text, own in told if own), told[0][0])
        raise NonFiniteError(text, sorted(every)) from cause
