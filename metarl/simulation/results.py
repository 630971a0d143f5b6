"""What a Gymnasium environment returns, checked: NumPy would convert or broadcast it in silence."""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from metarl.support.errors import UnfitError
from metarl.support.places import place_in_called_code
from metarl.support.types import Space

NUMERIC = "biuf"
"""Kinds of NumPy types that are real numbers."""
SUCCESS = "success", "is_success"
"""Keys of an info that say whether the task is solved; the first one that is there counts."""


def reset(env: gymnasium.Env, **options: Any) -> tuple[Any, Mapping[str, object]]:
    """Resets an environment and returns observation and info.

    Raises:
        UnfitError: it returns something else.

    """
    try:
        return reset_result(env.reset(**options))
    except (TypeError, ValueError) as error:
        _expect_unpacked(error, "observation and info")
        raise


def step(env: gymnasium.Env, action: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """Steps an environment and returns observation, reward, terminated, truncated and info.

    Raises:
        UnfitError: it returns something else.

    """
    try:
        return step_result(env.step(action))
    except (TypeError, ValueError) as error:
        _expect_unpacked(error, "observation, reward, terminated, truncated and info")
        raise


def _expect_unpacked(error: Exception, what: str) -> None:
    """A wrapper unpacks what the environment returns before it can be checked here."""
    if "unpack" in str(error) and place_in_called_code(error) is None:
        raise UnfitError(f"returns no tuple of {what}: {error}") from error


def reset_result(result: object) -> tuple[Any, Mapping[str, object]]:
    """Observation and info.

    Raises:
        UnfitError: the result is something else.

    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise UnfitError(f"returns {shown(result)}, not a tuple of observation and info")
    _expect_info(result[1])
    return result


def step_result(result: object) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """Observation, reward, terminated, truncated and info.

    Raises:
        UnfitError: the result is something else.

    """
    if not isinstance(result, tuple) or len(result) != 5:
        raise UnfitError(
            f"returns {shown(result)}, not a tuple of observation, reward, terminated, truncated "
            "and info"
        )
    observation, reward, terminated, truncated, info = result
    if type(reward) is not float:
        reward = _number(reward, "reward")
    if type(terminated) is not bool:
        terminated = _flag(terminated, "terminated")
    if type(truncated) is not bool:
        truncated = _flag(truncated, "truncated")
    if type(info) is not dict:
        _expect_info(info)
    return observation, reward, terminated, truncated, info


def observation_of(space: Space, value: Any) -> np.ndarray:
    """An observation of a Box in its shape and type: [...].

    Raises:
        UnfitError: it is of another shape, no array of real numbers, or its numbers do not fit.

    """
    if type(value) is np.ndarray and value.dtype == space.dtype and value.shape == space.shape:
        return value
    array = _array(value, "observation")
    if array.shape != space.shape:
        raise UnfitError(f"returns an observation of shape {array.shape}, not {space.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # infinite numbers are found later
        fitting = array.astype(space.dtype)
    if fitting.dtype.kind in "iu" and not (fitting == array).all():
        raise UnfitError(
            f"returns the observation {shown(value)}, whose numbers {space.dtype} does not have"
        )
    return fitting


def shown(value: object) -> str:
    """A value in a message: short, and whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = "a value that cannot be shown"
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"


def _expect_info(info: object) -> None:
    if not isinstance(info, Mapping):
        raise UnfitError(f"returns the info {shown(info)}, not a dict")


def _array(value: object, name: str) -> np.ndarray:
    """The value as an array of real numbers."""
    try:
        array = np.asarray(value)
    except Exception as error:  # of nested lists, or of a class of its own
        raise UnfitError(f"returns the {name} {shown(value)}, which is no array") from error
    if array.dtype.kind not in NUMERIC:
        raise UnfitError(f"returns the {name} {shown(value)}, which is not of real numbers")
    return array


def _number(value: object, name: str) -> float:
    array = _array(value, name)
    if array.size != 1:
        raise UnfitError(f"returns the {name} {shown(value)}, not one number")
    return float(array.item())


def _flag(value: object, name: str) -> bool:
    number = _number(value, name)
    if number not in (0, 1):
        raise UnfitError(f"returns {name} {shown(value)}, neither True nor False")
    return bool(number)


def success_of(info: Mapping[str, object]) -> float:
    """The `success` or `is_success` of an environment's info; NaN if neither is a number."""
    for name in SUCCESS:
        value = number_of(info.get(name))
        if value is not None:
            return value
    return math.nan


def number_of(value: object) -> float | None:
    """The value if it is one number, also in an array; otherwise None."""
    try:
        array = np.asarray(value)
    except Exception:  # nested lists of different lengths are no number
        return None
    return float(array.item()) if array.size == 1 and array.dtype.kind in NUMERIC else None
