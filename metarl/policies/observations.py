"""Observations of any space: flat in rollouts, and in the space's own form for a policy.

Rollouts hold vectors, those of `gymnasium.spaces.flatten`: Discrete and MultiDiscrete are one-hot,
Dict and Tuple concatenate their parts, and a Box of any shape is raveled.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias, Union

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.support.errors import UsageError
from metarl.support.forms import form_of
from metarl.support.types import Space

Structured: TypeAlias = Union[Tensor, dict[str, "Structured"], tuple["Structured", ...]]  # noqa: UP007
"""Tensors [rows, ...] in the form of a space."""

LARGEST_BYTE = 255.0
"""By which images of bytes are divided."""


def is_image(space: Space) -> bool:
    """Whether a space is of images: bytes [height, width] or with channels at either end."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape or ()) in (2, 3)
    )


def same_form(one: Space, other: Space) -> bool:
    """Whether a policy for the one space fits the other: all but the bounds of a Box agree."""
    if type(one) is not type(other):
        return False
    if isinstance(one, spaces.Box):
        return one.shape == other.shape
    named, others = parts(one), parts(other)
    if not named:
        return bool(one == other)
    return list(named) == list(others) and all(
        same_form(part, others[name]) for name, part in named.items()
    )


def has_image(space: Space) -> bool:
    """Whether a space or a part of it is of images."""
    return is_image(space) or any(map(has_image, parts(space).values()))


def flat_size(space: Space) -> int | None:
    """Numbers of a flat observation; None if there is no flat form of a fixed size."""
    try:
        return spaces.flatdim(space)
    except (NotImplementedError, ValueError):  # Gymnasium raises either
        return None


def parts(space: Space) -> dict[str, Space]:
    """The parts of a Dict or Tuple by name, in the order of flattening; none of other spaces."""
    if isinstance(space, spaces.Dict):
        return dict(space.spaces)
    if isinstance(space, spaces.Tuple):
        return {str(i): part for i, part in enumerate(space.spaces)}
    return {}


@dataclass(frozen=True)
class Observations:
    """The observations of a space."""

    space: Space
    size: int
    """Numbers of a flat observation."""

    @classmethod
    def of(cls, space: Space) -> Self:
        """The observations of a space.

        Raises:
            UsageError: the space has no flat form of a fixed size.

        """
        size = flat_size(space)
        if size is None:
            name, part = _not_flat(space, "observation")
            raise UsageError(
                f"{name} is a {type(part).__name__}, which has no flat form of a fixed size: it "
                "must be a Box, Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of "
                "these (gymnasium.wrappers.FilterObservation leaves parts of a Dict out)"
            )
        if not size:
            raise UsageError(f"observation space {space} is empty")
        return cls(space, size)

    def flat(self, observation: object) -> np.ndarray:
        """An observation of the environment as a vector: [size]."""
        if isinstance(self.space, spaces.Box):
            return np.ravel(np.asarray(observation, self.space.dtype))
        vector: np.ndarray = np.asarray(spaces.flatten(self.space, observation))
        return vector

    @functools.cached_property
    def _on_devices(self) -> dict[torch.device, Tensor]:
        return {}

    def divisors(self, device: torch.device) -> Tensor:
        """By what flat observations are divided before a network, 255 for images: [size].

        They are moved to a device once: within a captured loop, no number may be.
        """
        if device not in self._on_devices:
            self._on_devices[device] = torch.tensor(_divisors(self.space), device=device)
        return self._on_devices[device]

    def scaled(self, flat: Tensor) -> Tensor:
        """Flat observations [..., size] with images in [0, 1]."""
        return flat / self.divisors(flat.device) if has_image(self.space) else flat

    def structured(self, flat: Tensor) -> Structured:
        """Flat observations [rows, size] in the form of the space."""
        return _structured(self.space, flat)


def expect_observation(space: Space, observation: object, name: str = "the observation") -> None:
    """Checks that an observation has the form of its space; a Box need not hold its numbers.

    Raises:
        UsageError: it has not; `name` is what the message calls it.

    """
    if isinstance(space, spaces.Box):
        _expect_array(space, observation, name)
    elif isinstance(space, spaces.Dict):
        if not isinstance(observation, Mapping) or not observation.keys() >= space.keys():
            listed = ", ".join(space)
            raise UsageError(f"{name} must be a dict of {listed}, not {form_of(observation)}")
        for key, part in space.items():
            expect_observation(part, observation[key], f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(observation, Sequence) or len(observation) != len(space):
            raise UsageError(f"{name} must be a tuple of {len(space)}, not {form_of(observation)}")
        for i, part in enumerate(space):
            expect_observation(part, observation[i], f"{name}[{i}]")
    elif not space.contains(observation):
        raise UsageError(f"{name} must be of {space}, not {form_of(observation)}")


def _expect_array(space: spaces.Box, observation: object, name: str) -> None:
    """Checks the shape of an array, and that its numbers are of the type of the space."""
    wanted = f"{name} must be an array {list(space.shape)} of {space.dtype}"
    try:
        array = np.asarray(observation)
    except ValueError:  # rows of several lengths
        raise UsageError(f"{wanted}, not {form_of(observation)}") from None
    if array.shape != space.shape or array.dtype.kind not in "biuf":
        several = array.shape[1:] == space.shape and array.dtype.kind in "biuf"
        hint = "; several observations are a tensor of flat ones, [rows, ...]" if several else ""
        raise UsageError(f"{wanted}, not {form_of(observation)}{hint}")
    if space.dtype.kind in "biu":
        with np.errstate(invalid="ignore"):  # of NaN
            wrong = array[array.astype(space.dtype) != array]
        if wrong.size:
            raise UsageError(f"{wanted}; it has {wrong[0]}")


def _divisors(space: Space) -> list[float]:
    named = parts(space)
    if named:
        return [number for part in named.values() for number in _divisors(part)]
    return [LARGEST_BYTE if is_image(space) else 1.0] * spaces.flatdim(space)


def _not_flat(space: Space, name: str) -> tuple[str, Space]:
    """The part of a space that cannot be flattened, and its name."""
    for key, part in parts(space).items():
        if flat_size(part) is None:
            return _not_flat(part, f"{name}[{key!r}]")
    return name, space


def _structured(space: Space, flat: Tensor) -> Structured:
    named = parts(space)
    if named:
        pieces = torch.split(flat, [spaces.flatdim(part) for part in named.values()], -1)
        each = zip(named.items(), pieces, strict=True)
        inside = {name: _structured(part, piece) for (name, part), piece in each}
        return inside if isinstance(space, spaces.Dict) else tuple(inside.values())
    shape = space.shape if isinstance(space, spaces.Box | spaces.MultiBinary) else None
    if shape is None or len(shape) == 1:
        return flat
    return torch.unflatten(flat, -1, shape) if shape else flat.squeeze(-1)


def flat_environment(env: gymnasium.Env) -> gymnasium.Env:
    """The environment with flat observations, unless it has a Box of them."""
    if isinstance(env.observation_space, spaces.Box):
        return env
    Observations.of(env.observation_space)
    return gymnasium.wrappers.FlattenObservation(env)


def numbers(space: Space) -> int:
    """Numbers of a Box of any shape."""
    return math.prod(space.shape or ())
