"""Names of options on the command line, and ranges of their values."""

import math
import numbers
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from metarl.support.errors import UsageError, expect_instance, nearest
from metarl.support.schema import expect

WHOLE = 2**63 - 1
"""The largest whole number of arrays and random numbers."""
LARGEST = float(np.finfo(np.float32).max)
"""The largest number that learners compute with."""
TRUTH = {"true": True, "false": False}
"""Words for a bool, in small letters."""


def truth(word: object) -> bool:
    """The bool that a word is, in letters of any case.

    Raises:
        UsageError: it is none.

    """
    if (key := str(word).lower()) not in TRUTH:
        raise UsageError(f"{word} must be true or false")
    return TRUTH[key]


@dataclass(frozen=True)
class Range:
    """The range of an option, declared in its type and checked by `check_ranges`."""

    low: float
    high: float = LARGEST
    above: bool = False
    """Whether `low` is excluded."""

    def holds(self, value: float) -> bool:
        """Whether the value is within the range; NaN is in none."""
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def expected(self, value: float) -> str:
        """What would be right in place of a value that is not within the range."""
        low = f"a number {'above' if self.above else 'of at least'} {self.low:g}"
        if self.high not in (WHOLE, LARGEST):
            return f"{low} and at most {self.high:g}"
        highest = f"{self.high:g}" if self.high == LARGEST else str(self.high)
        return f"at most {highest}" if self.high < value < math.inf else low


Count = Annotated[int, Range(1, WHOLE)]
WholeNumber = Annotated[int, Range(0, WHOLE)]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1, above=True)]
"""A number above 0 and at most 1."""
Probability = Annotated[float, Range(0, 1)]
Device = Literal["auto", "cpu", "cuda"]
"""Where a learner computes."""


def check_ranges(options: object) -> None:
    """Checks the fields of a dataclass: their plain types, choices and ranges.

    Raises:
        UsageError: an option is wrong; the message names it, its value and what is right.

    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = get_args(hint)
            listed = ", ".join(map(str, choices))
            raise UsageError(
                f"{option(name)} {value} must be one of {listed}{nearest(str(value), choices)}"
            )
        value = value.item() if isinstance(value, np.generic) else value
        is_number = isinstance(value, (int, float))
        for part in (hint, *get_args(hint)):  # includes the alternatives of `Count | None`
            for limits in getattr(part, "__metadata__", ()):
                if isinstance(limits, Range) and is_number and not limits.holds(value):
                    raise UsageError(f"{option(name)} {value} must be {limits.expected(value)}")
        # In Python, nothing else has checked it. Not looked at: tyro's mark of a missing one.
        if _is_plain(hint) and isinstance(
            value, (str, int, float, list, tuple, dict, types.NoneType)
        ):
            try:
                expect(value, hint, option(name))
            except ValueError as error:
                raise UsageError(str(error)) from None


def _is_plain(hint: Any) -> bool:
    """Whether it is of numbers, texts and truth values alone."""
    if get_origin(hint) is Annotated:
        return _is_plain(get_args(hint)[0])
    if get_origin(hint) in (tuple, Union, types.UnionType):
        return all(part is Ellipsis or _is_plain(part) for part in get_args(hint))
    return hint in (bool, int, float, str, types.NoneType)


def option(name: str) -> str:
    """The name of a field on the command line."""
    return "--" + name.replace("_", "-")


def with_truth_values(pairs: Mapping[str, object]) -> dict[str, Any]:
    """The pairs of an option such as --family-options, with the words true and false as bool.

    Numbers are as they are: the command line parses them itself.
    """
    return {n: TRUTH.get(x.lower(), x) if isinstance(x, str) else x for n, x in pairs.items()}


def at_least(name: str, value: int, lowest: int) -> None:
    """Checks that the option `name` is a whole number from `lowest` to what arrays can hold.

    Raises:
        UsageError: it is not.

    """
    expect_instance(value, numbers.Integral, f"{name} must be a whole number")
    if value < lowest:
        raise UsageError(f"{name} {value} must be at least {lowest}")
    if value > WHOLE:
        raise UsageError(f"{name} {value} must be at most {WHOLE}")
