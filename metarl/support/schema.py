"""Whether a value that was read from a file has the type that its annotation says."""

import re
import reprlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

LARGEST_INTEGER = 2**63
"""Integers below it, in both directions, fit into 64 bits and into a float."""

UNUSABLE = re.compile("[\\0\ud800-\udfff]")
"""A null byte, which no path may have, and half of a surrogate pair, which cannot be printed."""

NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "text"}


def expect(value: object, hint: Any, where: str = "it") -> None:
    """Checks a value of JSON, or of the plain types of a checkpoint, against an annotation.

    The annotation is of bool, int, float, str, Path, None, Literal, unions, list, tuple, dict with
    keys of text, TypedDict (which may have further entries), Annotated, or Any. An int is a float
    too. A tuple is a list in JSON.

    Raises:
        ValueError: the value is of another type; names its place below `where`.

    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (Any, object):
        return
    if origin in (Annotated, NotRequired, Required):
        expect(value, arguments[0], where)
    elif origin is Literal:
        # Not only whether it is among them: True equals 1.
        if not any(value == x and type(value) is type(x) for x in arguments):
            _refuse(value, f"one of {', '.join(map(str, arguments))}", where)
    elif origin in (Union, types.UnionType):
        _expect_any(value, arguments, where)
    elif typing.is_typeddict(hint):
        _expect_entries(value, hint, where)
    elif origin is dict or hint is dict:
        if not isinstance(value, dict):
            _refuse(value, "an object", where)
        for name, entry in value.items() if arguments else ():
            expect(name, arguments[0], f"a name in {where}")
            expect(entry, arguments[1], _place(where, name))
    elif origin in (list, tuple):
        _expect_elements(value, origin, arguments, where)
    elif not _is_plain(value, hint):
        _refuse(value, NAMES.get(hint, getattr(hint, "__name__", str(hint))), where)


def _expect_any(value: object, alternatives: tuple[Any, ...], where: str) -> None:
    for hint in alternatives:
        try:
            return expect(value, hint, where)
        except ValueError as error:
            last = error
    if len(alternatives) == 2 and types.NoneType in alternatives:
        # What is said of the other one is more exact.
        return expect(value, next(a for a in alternatives if a is not types.NoneType), where)
    raise last


def _expect_entries(value: object, hint: Any, where: str) -> None:
    if not isinstance(value, dict):
        _refuse(value, "an object", where)
    hints: Mapping[str, Any] = typing.get_type_hints(hint, include_extras=True)
    for name, entry in hints.items():
        if name in value:
            expect(value[name], entry, _place(where, name))
        elif name in hint.__required_keys__:
            raise ValueError(f"{where} has no entry {name}")


def _expect_elements(value: object, kind: type, hints: tuple[Any, ...], where: str) -> None:
    if not isinstance(value, (list, tuple)):
        _refuse(value, "a list", where)
    if kind is tuple and hints[-1] is not Ellipsis:
        if len(value) != len(hints):
            _refuse(value, f"a list of {len(hints)}", where)
        each = hints
    else:
        each = (hints[0],) * len(value)
    for i, (element, hint) in enumerate(zip(value, each, strict=True)):
        expect(element, hint, f"{where}[{i}]")


def _is_plain(value: object, hint: Any) -> bool:
    if hint in (None, types.NoneType):
        return value is None
    if hint in (str, Path):
        return isinstance(value, str) and not UNUSABLE.search(value)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if isinstance(value, int) and hint in (int, float):
        return -LARGEST_INTEGER < value < LARGEST_INTEGER
    return isinstance(value, hint)


def _place(where: str, name: object) -> str:
    return f"{name}" if where == "it" else f"{where}.{name}"


def _refuse(value: object, wanted: str, where: str) -> typing.NoReturn:
    raise ValueError(f"{where} is {reprlib.repr(value)}, not {wanted}")
