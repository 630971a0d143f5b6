"""What a search varies: distributions of Optuna, and their values as options of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from metarl.learners.config import FamilyRunConfig
from metarl.support.errors import UsageError, nearest
from metarl.support.options import truth

if TYPE_CHECKING:
    import optuna

Value = int | float | str


def parse_search(
    texts: tuple[str, ...], base: FamilyRunConfig
) -> dict[str, optuna.distributions.BaseDistribution]:
    """The distributions of the options that are searched, by name.

    Raises:
        UsageError: a text is not NAME=LOW:HIGH[:log] or NAME=A,B,C, or there is no such option.

    """
    hints = get_type_hints(type(base))
    pairs = [name for name, hint in hints.items() if get_origin(hint) is dict]
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not (equals and values):
            raise UsageError(
                f"--search {text} must be NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C"
            )
        option, dot, key = name.partition(".")
        if option in pairs and not key:
            raise UsageError(f"--search {text}: {option} has names and values: {option}.NAME=...")
        if option not in (pairs if dot else hints):
            known = (*hints, *(f"{pair}.{key}" for pair in pairs if dot))
            raise UsageError(f"--search {text}: no option {name}{nearest(name, known)}")
        if name in found:
            raise UsageError(f"--search {text}: {name} is searched twice")
        hint = get_args(hints[option])[1] if dot else hints[option]
        found[name] = _distribution(text, values, hint)
    return found


def _distribution(text: str, values: str, hint: Any) -> optuna.distributions.BaseDistribution:
    import optuna

    if "," in values or ":" not in values:  # MODULE:NAME may be among the choices
        return optuna.distributions.CategoricalDistribution(values.split(","))
    low, high, *rest = values.split(":")
    kinds = {hint, *get_args(hint)}
    # Where both are right, as for an option of the family, it is as the bounds are written.
    whole = all(bound.lstrip("+-").isdecimal() for bound in (low, high))
    is_integer = int in kinds and (whole or float not in kinds)
    kind: Any = int if is_integer else float
    try:
        bounds = kind(low), kind(high)
    except ValueError:
        wanted = "whole numbers" if is_integer else "numbers"
        raise UsageError(f"--search {text}: LOW and HIGH must be {wanted}") from None
    is_log = rest == ["log"]
    if (rest and not is_log) or not all(map(math.isfinite, bounds)) or not bounds[0] < bounds[1]:
        raise UsageError(f"--search {text} must be LOW:HIGH or LOW:HIGH:log with LOW below HIGH")
    if is_log and bounds[0] <= 0:
        raise UsageError(f"--search {text}: LOW must be above 0 on a logarithmic scale")
    if is_integer:
        return optuna.distributions.IntDistribution(*bounds, log=is_log)
    return optuna.distributions.FloatDistribution(*bounds, log=is_log)


def corners(
    distributions: Mapping[str, optuna.distributions.BaseDistribution],
) -> Iterator[dict[str, Value]]:
    """For each option, its lowest and highest value, or each of its choices, by itself."""
    for name, distribution in distributions.items():
        choices = getattr(distribution, "choices", None)
        for value in choices or (distribution.low, distribution.high):  # type: ignore[attr-defined]
            yield {name: value}


def with_values(config: FamilyRunConfig, values: Mapping[str, Value]) -> FamilyRunConfig:
    """The configuration with the values of a trial, whose texts become the types of the options."""
    hints = get_type_hints(type(config))
    single, pairs = by_option(values)
    changed: dict[str, Any] = {n: _converted(value, hints[n]) for n, value in single.items()}
    for name, own in pairs.items():
        numbers = {key: _number(value) for key, value in own.items()}
        changed[name] = getattr(config, name) | numbers
    if "run_dir" in changed:
        changed["resume"] = True
    return dataclasses.replace(config, **changed)


def by_option(
    values: Mapping[str, Value],
) -> tuple[dict[str, Value], dict[str, dict[str, Value]]]:
    """The values of options, and those named OPTION.NAME by the option whose pairs they are in."""
    single = {name: value for name, value in values.items() if "." not in name}
    pairs: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        option, dot, key = name.partition(".")
        if dot:
            pairs.setdefault(option, {})[key] = value
    return single, pairs


def _number(value: Value) -> Value:
    """The number that a text is, if it is one."""
    for kind in (int, float) if isinstance(value, str) else ():
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def _converted(value: Value, hint: Any) -> Any:
    """A value of the annotated type; a text lists the numbers of a tuple, divided by spaces."""
    if not isinstance(value, str):
        return (value,) if get_origin(hint) is tuple else value
    if get_origin(hint) is tuple:
        return tuple(get_args(hint)[0](part) for part in value.split())
    kinds = [kind for kind in (hint, *get_args(hint)) if kind in (bool, int, float, Path)]
    if bool in kinds:
        return truth(value)
    return kinds[0](value) if kinds else value
