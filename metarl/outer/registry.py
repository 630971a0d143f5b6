"""The outer loops by name: those of metarl, of other packages, and of the user."""

import dataclasses
import functools
import types
from typing import TYPE_CHECKING, Any, TypeVar, cast

from metarl.outer.evolution import EvolutionOptions, EvolutionStrategies
from metarl.outer.loop import OuterLoop
from metarl.outer.natural_gradient import NaturalGradient
from metarl.outer.policy_gradient import PolicyGradient
from metarl.outer.ppo import PPO, PPOOptions
from metarl.outer.reptile import Reptile
from metarl.outer.trpo import TRPO, TRPOOptions
from metarl.support.errors import UsageError
from metarl.support.parts import Parts

C = TypeVar("C")

OUTER_LOOPS = Parts["type[OuterLoop[OuterOptions]]"](
    "--outer",
    "metarl.outer_loops",
    {
        "trpo": TRPO,
        "ppo": PPO,
        "gradient": PolicyGradient,
        "natural": NaturalGradient,
        "reptile": Reptile,
        "evolution": EvolutionStrategies,
    },
    lambda part: isinstance(part, type) and issubclass(part, OuterLoop),
    "a subclass of metarl.outer.loop.OuterLoop",
    "MODULE:CLASS",
    needs={"Options": object},
)
"""A new one is a class in a file of its own and a line here, or an entry point of the group."""


def composed(classes: list[type]) -> type:
    """A dataclass with the fields of all of these.

    Raises:
        UsageError: two of the classes declare the same option; names both.

    """
    owners: dict[str, type] = {}
    for owner in dict.fromkeys(base for cls in classes for base in reversed(cls.__mro__)):
        for name in vars(owner).get("__annotations__", {}):
            if name in owners:
                raise UsageError(
                    f"option {name} is declared by {owners[name].__qualname__} and by "
                    f"{owner.__qualname__}: one of them must have another name"
                )
            owners[name] = owner
    # A class comes before its bases, and only once.
    bases = [c for c in dict.fromkeys(classes) if not any(c in k.__mro__[1:] for k in classes)]
    namespace = {"__module__": __name__, "__doc__": "The options of all outer loops."}
    made = types.new_class("OuterOptions", tuple(bases), {}, lambda body: body.update(namespace))
    return dataclasses.dataclass(frozen=True, kw_only=True)(made)


def extended(config_class: type[C], outer: str) -> type[C]:
    """The class of a run's options with those of the loop `outer`, which may be the user's own.

    Raises:
        UsageError: there is no such loop, or it declares an option that the run has already.

    """
    options = OUTER_LOOPS.find(outer).Options
    if issubclass(config_class, options):
        return config_class
    return cast(type[C], _joined(options, cast(type, config_class)))


@functools.cache
def _joined(options: type, config_class: type) -> type:
    """A subclass of both, whose instances are pickled by what they hold."""
    taken = {field.name for field in dataclasses.fields(config_class)}
    for base in options.__mro__:
        for name in vars(base).get("__annotations__", {}):
            if name in taken and not issubclass(config_class, base):
                raise UsageError(
                    f"option {name} is declared by {base.__qualname__} and by the run itself: the "
                    "first must have another name"
                )

    def reduced(self: Any) -> tuple[Any, ...]:
        held = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _made, (config_class, held)

    namespace = {
        "__module__": config_class.__module__,
        "__doc__": config_class.__doc__,
        "__reduce__": reduced,
    }
    name = config_class.__name__
    made = types.new_class(name, (options, config_class), {}, lambda body: body.update(namespace))
    return dataclasses.dataclass(frozen=True, kw_only=True)(made)


def _made(config_class: type[C], held: dict[str, Any]) -> C:
    """The options of a run, of the class that its outer loop wants."""
    return extended(config_class, held["outer"])(**held)


def foreign_options(outer: str) -> set[str]:
    """Options that only loops of other packages have, and that the loop `outer` does not have.

    A run need not remember them: whether such a package is installed makes no difference to it.
    """

    def options(*names: str) -> set[str]:
        loops = map(OUTER_LOOPS.find, names)
        return {field.name for loop in loops for field in dataclasses.fields(loop.Options)}

    return options(*OUTER_LOOPS.announced()) - options(*OUTER_LOOPS.own, outer)


if TYPE_CHECKING:

    class OuterOptions(TRPOOptions, PPOOptions, EvolutionOptions):
        """The options of all outer loops: the fields of a run that mypy knows of."""

else:
    OuterOptions = composed([OUTER_LOOPS.find(name).Options for name in OUTER_LOOPS.names()])
