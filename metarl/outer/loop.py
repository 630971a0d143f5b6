"""What an outer loop is: it says how an iteration begins, and makes the meta-update."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from metarl.outer.objective import PolicyObjective
from metarl.policies.parameters import Parameters, expand
from metarl.support.errors import UsageError
from metarl.support.foreign import expect_metrics
from metarl.support.forms import form_of
from metarl.support.options import Positive
from metarl.support.randomness import RandomKey


@dataclass(frozen=True, kw_only=True)
class StepSizeOptions:
    """The option of loops with a fixed step size."""

    outer_lr: Positive = 1e-3
    """Step size of Adam in ppo, gradient and evolution, and ε of reptile."""


class OtherOptions(Protocol):
    """Options of other parts of a run that an outer loop may contradict."""

    @property
    def outer(self) -> str:
        """Name of the outer loop."""

    @property
    def meta_batch_size(self) -> int:
        """Tasks of an iteration."""

    @property
    def inner_steps(self) -> int:
        """Inner steps."""

    @property
    def estimator(self) -> str:
        """Surrogate of the inner loop."""

    @property
    def sampling_correction(self) -> bool:
        """Whether the surrogate accounts for the sampling before adaptation."""

    @property
    def adapts(self) -> str:
        """What the inner loop changes."""

    @property
    def step_sizes(self) -> str:
        """Whether the inner step sizes are learned."""


@dataclass(frozen=True)
class Start:
    """What the tasks of an iteration begin with."""

    parameters: Parameters
    """[tasks, ...] each."""
    repeats: int = 1
    """Times that the drawn tasks occur, one whole set after the other."""


O_contra = TypeVar("O_contra", contravariant=True)


class OuterLoop(ABC, Generic[O_contra]):
    """The meta-update; a subclass is a line of `OUTER_LOOPS`, an entry point of the
    group `metarl.outer_loops`, or MODULE:CLASS.

    `Options` is a frozen, keyword-only dataclass with a docstring under each field; its fields
    become options of the run, and the loop is made from them.
    """

    Options: ClassVar[type]
    differentiates: ClassVar[bool] = True
    """Whether it follows a derivative of the surrogate through the inner loop."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses a loop that saves its state and does not load it, or the other way round."""
        super().__init_subclass__(**kwargs)
        saves, loads = cls.state is not OuterLoop.state, cls.load_state is not OuterLoop.load_state
        if saves is not loads:
            has, lacks = ("state", "load_state") if saves else ("load_state", "state")
            raise UsageError(
                f"{cls.__name__} has {has} but not {lacks}: a resumed run needs both, to go on "
                "exactly"
            )

    @abstractmethod
    def __init__(self, options: O_contra):
        """`options` have at least the fields of `Options`."""

    @classmethod
    def check(cls, options: OtherOptions) -> None:
        """Checks that the other parts of a run fit this loop.

        Raises:
            UsageError: names both options and what would be right.

        """
        if cls.differentiates:
            return
        expect(
            options.estimator == "first_order",
            f"--outer {options.outer} takes no derivative of the inner loop: --estimator must be "
            f"first_order, not {options.estimator}",
        )
        expect(
            not options.sampling_correction,
            f"--outer {options.outer} has no surrogate for --sampling-correction to correct",
        )

    def begin(self, parameters: Mapping[str, Tensor], tasks: int, key: RandomKey) -> Start:
        """What the `tasks` of the iteration `key` begin with: θ, unless a subclass perturbs it."""
        return Start(expand(parameters, tasks))

    @abstractmethod
    def step(
        self, objective: PolicyObjective, parameters: Parameters
    ) -> tuple[Parameters, dict[str, float]]:
        """θ after one update, and `outer/...` metrics."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as tensors and plain types."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""


def started(loop: OuterLoop[Any], parameters: Parameters, tasks: int, key: RandomKey) -> Start:
    """What the tasks of the iteration `key` begin with.

    Raises:
        UsageError: the loop's `begin` returns anything else.

    """
    start: object = loop.begin(parameters, tasks, key)
    whose = f"{type(loop).__name__}.begin"
    if not isinstance(start, Start):
        raise UsageError(f"{whose} must return a Start, not {form_of(start)}")
    _expect_like(parameters, start.parameters, (tasks,), whose)
    if tasks % start.repeats:
        raise UsageError(f"{whose}: {tasks} tasks are not {start.repeats} times the same ones")
    return start


def improved(
    loop: OuterLoop[Any], objective: PolicyObjective, parameters: Parameters
) -> tuple[Parameters, dict[str, float]]:
    """θ after the loop's update, without a graph, and its metrics.

    Raises:
        UsageError: its `step` returns anything else.

    """
    result: Any = loop.step(objective, parameters)
    whose = f"{type(loop).__name__}.step"
    match result:
        case (Mapping() as theta, metrics):
            expect_metrics(metrics, whose)
        case _:
            kind = form_of(result) if result is None else f"a {type(result).__name__}"
            raise UsageError(f"{whose} must return (parameters, metrics), not {kind}")
    _expect_like(parameters, theta, (), whose)
    return {name: theta[name].detach() for name in parameters}, metrics


def _expect_like(
    parameters: Parameters, given: Mapping[str, object], tasks: tuple[int, ...], whose: str
) -> None:
    """Checks that `given` are such parameters, with the dimension `tasks` before theirs."""
    if set(given) != set(parameters):
        raise UsageError(
            f"{whose} must return the parameters that it gets, {', '.join(parameters)}"
        )
    for name, p in parameters.items():
        new, shape = given[name], (*tasks, *p.shape)
        if not isinstance(new, Tensor) or (new.shape, new.dtype) != (shape, p.dtype):
            wanted = f"a tensor {list(shape)} of {p.dtype}"
            raise UsageError(f"{whose} returns {name} as {form_of(new)}, not {wanted}")


def expect(condition: bool, message: str) -> None:
    """Raises a UsageError with the message unless the condition holds."""
    if not condition:
        raise UsageError(message)
