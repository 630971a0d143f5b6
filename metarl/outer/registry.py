"""The outer loops by name: those of metarl, of other packages, and of the user."""

import dataclasses
import functools
import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from metarl.outer.evolution import EvolutionOptions, EvolutionStrategies
from metarl.outer.loop import OuterLoop
from metarl.outer.natural_gradient import NaturalGradient
from metarl.outer.policy_gradient import PolicyGradient
from metarl.outer.ppo import PPO, PPOOptions
from metarl.outer.reptile import Reptile
from metarl.outer.trpo import TRPO, TRPOOptions
from metarl.support.errors import UsageError
from metarl.support.options import option
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
"""A new one is a class in a file of its own and a line here, or an entry point of the group. New
options of metarl's own are a base of `OuterOptions` too."""


@dataclass(frozen=True, kw_only=True)
class OuterOptions(TRPOOptions, PPOOptions, EvolutionOptions):
    """The options of all outer loops of metarl."""


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


def options_of_others(outer: str) -> dict[str, str]:
    """The options that loops of metarl have and the loop `outer` has not, each with such a loop."""
    own = _names_of_options(outer)
    others = reversed([*OUTER_LOOPS.own])  # the first that has it is named
    return {n: other for other in others for n in sorted(_names_of_options(other) - own)}


def expect_own_options(outer: str, given: Collection[str]) -> None:
    """Checks that no given option is one of another outer loop alone.

    Raises:
        UsageError: one is.

    """
    for name, other in options_of_others(outer).items():
        if name in given:
            raise UsageError(f"{option(name)} is an option of --outer {other}, not of {outer}")


def _names_of_options(outer: str) -> set[str]:
    return {field.name for field in dataclasses.fields(OUTER_LOOPS.find(outer).Options)}
