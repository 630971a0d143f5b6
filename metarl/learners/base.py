"""What a learner is for the loop of a run."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

from metarl.evaluation.evaluation import Evaluation
from metarl.learners.config import RunConfig
from metarl.learners.iteration import whole
from metarl.support.types import Json, State


class BaseLearner(ABC):
    """A learner that a run can train, evaluate, record and resume."""

    Config: ClassVar[type[RunConfig]]
    """Its options; `metarl train --learner NAME` has them on the command line."""

    config: RunConfig
    iteration: int = 0
    """Iterations done."""
    env_steps: int = 0
    """Environment steps taken in training."""
    name: str
    """What is learned, and where, for people."""
    measure: str = "return"
    """What the curves show: `<measure>/before` and `<measure>/after` are among the metrics."""
    higher_is_better: bool = True
    """Whether a larger measure is better."""
    test_steps: int
    """Inner steps of an evaluation."""
    splits: tuple[str, ...] = ("train", "test")
    """Splits of the tasks."""
    eval_splits: tuple[str, ...] = ("test",)
    """Splits that are evaluated during training."""
    on_rollout: Callable[[int], None] | None = None
    """Called with the stage after each rollout, by what shows progress."""
    remedy: str = "a smaller step size"
    """What to try where a number becomes infinite or NaN."""
    drops_tasks: ClassVar[bool] = False
    """Whether `iterate` leaves out the tasks in `dropped`, as --non-finite drop-task asks."""
    dropped: frozenset[int] = frozenset()
    """Tasks that the iteration leaves out, because they have such a number. They are sampled, but
    all is 0 in the rollouts of a task family."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Whatever a learner's `iterate` does, it happens as a whole or not at all."""
        super().__init_subclass__(**kwargs)
        if "iterate" in vars(cls):
            cls.iterate = whole(cls.iterate)  # type: ignore[method-assign, assignment]

    @abstractmethod
    def __init__(self, config: RunConfig):
        """Takes the options that `Config` has."""

    @abstractmethod
    def iterate(self) -> dict[str, float]:
        """One iteration of training; its metrics, by the names of metrics.jsonl."""

    @abstractmethod
    def evaluate(
        self,
        tasks: int | None = None,
        steps: int | None = None,
        split: str = "test",
        adaptations: int | None = None,
    ) -> Evaluation:
        """The measure on held-out tasks after 0, 1, ... `steps` inner steps."""

    @abstractmethod
    def state(self) -> State:
        """All that a resumed run needs, as tensors and plain types."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Continues from `state()`."""

    def expect_shares(self, tasks: int) -> None:  # noqa: B027 (a learner may compute in one place)
        """Checks that each process of torchrun has a part of an evaluation of so many tasks.

        Raises:
            UsageError: there are more processes than can share the tasks.

        """

    def nothing_learned(self) -> dict[str, float]:
        """The metrics of an iteration whose update was left out."""
        none = {f"{self.measure}/{when}": math.nan for when in ("before", "after")}
        return {"iteration": self.iteration, **none}

    def initialise(self, other: Self) -> None:
        """Begins with what another learner of this class has learned, not with its iterations.

        Raises:
            ValueError: what it has learned does not fit.

        """
        raise ValueError(f"{type(self).__name__} cannot begin with another run")

    def learn(self, iterations: int) -> Iterator[dict[str, float]]:
        """Iterates until `iterations` are done in all, yielding the metrics of each one."""
        while self.iteration < iterations:
            yield self.iterate()

    def describe(self) -> Json:
        """What config.json holds beside the options; `config` replaces some of these."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.iteration} iterations done)"

    def close(self) -> None:  # noqa: B027 (a learner without environments holds nothing)
        """Frees what the learner holds: environments and their processes."""
