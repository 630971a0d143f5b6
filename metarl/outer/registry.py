"""The outer loops by name: those of metarl, and those that other packages announce."""

import dataclasses
import importlib.metadata
import types
from typing import TYPE_CHECKING

from metarl.outer.evolution import EvolutionOptions, EvolutionStrategies
from metarl.outer.loop import OuterLoop
from metarl.outer.natural_gradient import NaturalGradient
from metarl.outer.policy_gradient import PolicyGradient
from metarl.outer.ppo import PPO, PPOOptions
from metarl.outer.reptile import Reptile
from metarl.outer.trpo import TRPO, TRPOOptions
from metarl.support.errors import UsageError

ENTRY_POINT_GROUP = "metarl.outer_loops"


def announced() -> dict[str, "type[OuterLoop[OuterOptions]]"]:
    """The outer loops of installed packages, by name.

    Raises:
        UsageError: an entry point cannot be imported, or is not a subclass of `OuterLoop`.

    """
    found = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            loop = point.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(f"outer loop {point.name} = {point.value}: {error}") from error
        if not (isinstance(loop, type) and issubclass(loop, OuterLoop)):
            raise UsageError(
                f"outer loop {point.name} = {point.value} must be a subclass of "
                "metarl.outer.loop.OuterLoop"
            )
        found[point.name] = loop
    return found


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


ANNOUNCED = announced()
"""The outer loops of other packages."""

OUTER_LOOPS: dict[str, "type[OuterLoop[OuterOptions]]"] = ANNOUNCED | {
    "trpo": TRPO,
    "ppo": PPO,
    "gradient": PolicyGradient,
    "natural": NaturalGradient,
    "reptile": Reptile,
    "evolution": EvolutionStrategies,
}
"""A new one is a class in a file of its own and a line here, or an entry point of the group."""


def foreign_options(outer: str) -> set[str]:
    """Options that only loops of other packages have, and that the loop `outer` does not have.

    A run need not remember them: whether such a package is installed makes no difference to it.
    """
    own = {name for name in OUTER_LOOPS if name not in ANNOUNCED or name == outer}
    options = {
        name: {field.name for field in dataclasses.fields(loop.Options)}
        for name, loop in OUTER_LOOPS.items()
    }
    return set().union(*options.values()) - set().union(*(options[name] for name in own))


if TYPE_CHECKING:

    class OuterOptions(TRPOOptions, PPOOptions, EvolutionOptions):
        """The options of all outer loops: the fields of a run that mypy knows of."""

else:
    OuterOptions = composed([loop.Options for loop in OUTER_LOOPS.values()])
