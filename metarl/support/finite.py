"""Numbers that are infinite or NaN: found in a whole batch at once, and named where they arose.

A batch is looked at once, because a GPU stops at each look. Which number it was is worked out only
if there is one.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from metarl.support.errors import NonFiniteError
from metarl.support.looks import read


def expect_finite(what: str, values: Mapping[str, Tensor], by_task: bool = False) -> None:
    """Checks the numbers of a batch.

    Args:
        what: they are, for the message.
        values: tensors by name, [tasks, ...] each if `by_task`.
        by_task: whether the error names the tasks.

    Raises:
        NonFiniteError: one is infinite or NaN; `tasks` are those that have such a number.

    """
    finite = [value.isfinite().all() for value in values.values()]
    if not finite or all(read(*finite)):
        return
    name, value = next(pair for pair, ok in zip(values.items(), finite, strict=True) if not ok)
    raise NonFiniteError(
        f"{what} is not finite: {name} has {value[~value.isfinite()][0].item():g}",
        not_finite(*values.values()).nonzero().flatten().tolist() if by_task else (),
    )


@contextlib.contextmanager
def overflow_is_named(what: str) -> Iterator[None]:
    """Turns the error with which torch refuses a number that its type does not have into ours."""
    try:
        yield
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise NonFiniteError(f"{what} is not finite: {error}") from error


def not_finite(*values: Tensor) -> Tensor:
    """Which tasks have an infinite number or NaN in one of the values [tasks, ...]: [tasks]."""
    rows = [~value.isfinite().reshape(len(value), -1).all(1) for value in values]
    return torch.stack(rows).any(0)


def expect_finite_state(state: object) -> None:
    """Checks all numbers in nested dicts and lists of tensors and plain types.

    Raises:
        NonFiniteError: names the first one that is infinite or NaN by its keys.

    """
    for name, value in numbers_in(state):
        finite = value.isfinite().all() if isinstance(value, Tensor) else math.isfinite(value)
        if not finite:
            raise NonFiniteError(f"{name} is not finite")


def numbers_in(state: object, name: str = "") -> Iterator[tuple[str, Tensor | float]]:
    """All floating-point tensors and numbers in nested dicts and lists, each with its keys."""
    if isinstance(state, float) or (isinstance(state, Tensor) and state.is_floating_point()):
        yield name, state
    elif isinstance(state, Mapping | list | tuple):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, value in items:
            yield from numbers_in(value, f"{name}.{key}" if name else str(key))
