"""The physics of declared families, which step states in NumPy or in torch."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from metarl.support.errors import UsageError
from metarl.support.types import Space
from metarl.tasks.declaration import Array, DeclaredFamily, States


@dataclass(frozen=True)
class WarpOptions:
    """How mujoco-warp steps environments."""

    contacts: int = 0
    """Room for contacts, per environment on average; 0: what the family declares."""
    constraints: int = 0
    """Room for constraints, for each environment; 0: what the family declares."""
    deterministic: bool = False
    """Whether a GPU gives the same bits again."""


class Physics(Protocol):
    """Steps the states of several environments."""

    @property
    def action_space(self) -> Space:
        """Space of one environment's actions."""

    def begin(self, tasks: dict[str, Array], streams: Array) -> None:
        """Sets the tasks [n, ...] and draws first states from the streams, [n] int64."""

    def step(self, actions: Array, active: Array, step: Array) -> tuple[Array, Array | None]:
        """Advances the `active` environments, [n] bool; `step` [] int64 counts from 0.

        Returns:
            The actions in the units that the reward function sees, [n, ...]; and which environments
            failed and kept their old state, [n] bool, or None if no environment did.

        """

    def state(self) -> States:
        """The states as the declared functions take them: arrays [n, ...].

        They stay valid until `step` is called twice, because a reward needs the states before and
        after a step.
        """


def call(family: DeclaredFamily, function: str, *arguments: object) -> Any:
    """Calls a function of the family; its own errors are passed on unchanged.

    Raises:
        UsageError: it reads a field of the states or of the model that the family does not declare.

    """
    try:
        return getattr(family, function)(*arguments)
    except AttributeError as error:
        fields = error.obj
        if not isinstance(fields, SimpleNamespace) or all(fields is not a for a in arguments):
            raise
        owner, kind = ("model", "model_fields") if function == "configure" else ("state", "fields")
        raise UsageError(
            f"{type(family).__name__}.{function} reads {owner}.{error.name}, which is not in its "
            f"{kind} ({', '.join(vars(fields))}): add it to `{kind}`"
        ) from error


def expect_shape(
    family: DeclaredFamily, function: str, values: Array, shape: tuple[int, ...]
) -> None:
    """Checks the shape of what a function of the family returns.

    Raises:
        UsageError: the shape is another one.

    """
    if np.shape(values) != shape:
        raise UsageError(
            f"{type(family).__name__}: {function} returns shape {tuple(np.shape(values))} for "
            f"{shape[0]} environments, not {shape}"
        )
