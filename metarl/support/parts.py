"""The parts that a run is made of, by name: metarl's own, those of other packages, and a user's.

A package announces a part as an entry point of the group of its kind; a part in any importable
module, as one in the working folder, is MODULE:NAME.
"""

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Generic, TypeVar, cast

from metarl.support.errors import UsageError, expect_instance, nearest
from metarl.support.modules import import_object

P = TypeVar("P")


@dataclass(frozen=True)
class Parts(Generic[P]):
    """All parts of one kind."""

    option: str
    """The option that names one, such as `--estimator`."""
    group: str
    """The group of their entry points."""
    own: Mapping[str, P | str]
    """Those of metarl by name; MODULE:NAME for one that is imported only when it is asked for."""
    fits: Callable[[object], bool]
    """Whether an object is a part of this kind."""
    what: str
    """What a part of this kind is, as in "a subclass of ..."."""
    form: str = "MODULE:FUNCTION"
    """How a user names one."""
    also: tuple[str, ...] = ()
    """Further values of the option, which stand for a choice among the parts."""
    needs: Mapping[str, type] = field(default_factory=dict)
    """The attributes of such a class that are frozen dataclasses, and what each is derived from."""

    def find(self, name: str) -> P:
        """The part of this name.

        Raises:
            UsageError: there is no such part, or what has the name is not one.

        """
        expect_instance(name, str, f"{self.option} is named {self.form}")
        part = self.own.get(name)
        if part is not None and not isinstance(part, str):
            return part
        reference = part or self._reference(name)
        found = import_object(reference, self.option, self.fits)
        if not self.fits(found):
            where = name if name == reference else f"{name} ({reference})"
            raise UsageError(f"{self.option} {where} must be {self.what}")
        if lacking := self._lacking(found):
            raise UsageError(f"{self.option} {name} must define {lacking}")
        return cast(P, found)

    def names(self) -> tuple[str, ...]:
        """The names of metarl's own parts, and of those that installed packages announce."""
        return tuple(dict.fromkeys((*self.own, *self.announced())))

    def announced(self) -> dict[str, str]:
        """MODULE:NAME of the parts that installed packages announce, by name."""
        points = importlib.metadata.entry_points(group=self.group)
        return {point.name: point.value for point in points if point.name not in self.own}

    def _lacking(self, part: object) -> str:
        """What a class of this kind does not define, although it must; empty if nothing."""
        if methods := sorted(getattr(part, "__abstractmethods__", ())):
            return ", ".join(methods)
        for name, base in self.needs.items():
            value = getattr(part, name, None)
            if not (isinstance(value, type) and issubclass(value, base) and _is_frozen(value)):
                derived = "" if base is object else f" derived from {base.__name__}"
                return f"{name}, a frozen dataclass{derived}"
        return ""

    def _reference(self, name: str) -> str:
        """MODULE:NAME of a part that is not metarl's own."""
        if ":" in name:
            return name
        announced = self.announced()
        if name not in announced:
            known = (*self.also, *self.names())
            raise UsageError(
                f"{self.option} {name} must be one of {', '.join(known)}, or {self.form}"
                f"{nearest(name, known)}"
            )
        return announced[name]


def _is_frozen(cls: type) -> bool:
    """Whether a class is a dataclass whose instances cannot be changed."""
    return is_dataclass(cls) and getattr(cls, "__dataclass_params__").frozen  # noqa: B009 (mypy)


def takes(*arguments: str) -> Callable[[object], bool]:
    """Whether an object can be called with so many arguments by position."""

    def fits(part: object) -> bool:
        if not callable(part):
            return False
        try:
            inspect.signature(part).bind(*arguments)
        except TypeError:
            return False
        except ValueError:  # a function of C may have no signature
            return True
        return True

    return fits
