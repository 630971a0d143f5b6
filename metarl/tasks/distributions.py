"""Distributions over named task parameters, as data: drawn from a seed, written to JSON and back.

    TaskDistribution(
        velocity=Uniform(0.0, 2.0, beyond=(0.0, 3.0), unit="m/s"),
        mass_scale=LogUniform(0.3, 3.4, shape=(7,)),
        direction=Choice((-1.0, 1.0)),
    )

The parameters are independent. Splits are `train` and `test`, and `beyond` where a parameter says
how far that goes: a task beyond is drawn from the wider ranges, and lies outside those of training.
Where the tasks are finite in number, and more than two, train and test have none in common.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from gymnasium import spaces

from metarl.support.errors import UsageError
from metarl.support.types import Json, Space

Value = np.ndarray
HELD_OUT = 5
"""Of a finite set every fifth task is for the test, or the last if there are fewer."""


class Distribution(Protocol):
    """Of one task parameter."""

    @property
    def space(self) -> Space:
        """All its values, those beyond training included."""

    def draw(self, generator: np.random.Generator) -> Value:
        """A value of training."""

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """A value of the range beyond, that of training included; None if there is no such."""

    def holds(self, value: Value) -> bool:
        """Whether training draws this value."""


@dataclass(frozen=True)
class Uniform:
    """Each element uniform over [low, high]."""

    low: float
    high: float
    shape: tuple[int, ...] = ()
    beyond: tuple[float, float] | None = None
    """The wider range that the split `beyond` is drawn from."""
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            UsageError: they are empty, infinite, or `beyond` is not the wider one.

        """
        low, high = self.beyond or (self.low, self.high)
        if not (-math.inf < low <= self.low <= self.high <= high < math.inf):
            raise UsageError(
                f"{self}: low and high must be finite and in order, and within beyond if there is "
                "one"
            )

    @property
    def space(self) -> spaces.Box:
        """The wider range."""
        low, high = self.beyond or (self.low, self.high)
        return spaces.Box(low, high, self.shape, np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """Elements in [low, high]."""
        return np.asarray(generator.uniform(self.low, self.high, self.shape))

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Elements in `beyond`."""
        return self.beyond and np.asarray(generator.uniform(*self.beyond, self.shape))

    def holds(self, value: Value) -> bool:
        """All elements in [low, high]."""
        return bool(np.all((self.low <= value) & (value <= self.high)))


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Each element's logarithm uniform: as likely in [1, 2] as in [2, 4]."""

    def __post_init__(self) -> None:
        """Checks the ranges, which must be above 0."""
        super().__post_init__()
        if (self.beyond or (self.low,))[0] <= 0:
            raise UsageError(f"{self}: a logarithm needs ranges above 0")

    def draw(self, generator: np.random.Generator) -> Value:
        """Elements in [low, high]."""
        return self._between(self.low, self.high, generator)

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Elements in `beyond`."""
        return self.beyond and self._between(*self.beyond, generator)

    def _between(self, low: float, high: float, generator: np.random.Generator) -> Value:
        drawn = np.exp(generator.uniform(math.log(low), math.log(high), self.shape))
        # Rounding must not leave the space.
        return np.asarray(np.clip(drawn, low, high))


@dataclass(frozen=True)
class Normal:
    """Each element normal."""

    mean: float
    std: float
    shape: tuple[int, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            UsageError: they are infinite, or the deviation is not above 0.

        """
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise UsageError(f"{self}: mean must be finite, and std above 0")

    @property
    def space(self) -> spaces.Box:
        """All numbers."""
        return spaces.Box(-np.inf, np.inf, self.shape, np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """Any numbers."""
        return np.asarray(generator.normal(self.mean, self.std, self.shape))

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Nothing lies beyond."""
        return None

    def holds(self, value: Value) -> bool:
        """Training draws everything."""
        return True


@dataclass(frozen=True)
class Ball:
    """A point uniform in the ball around 0; `Ball(3.0, 2)` is a disc."""

    radius: float
    dimensions: int
    beyond: float | None = None
    """The wider radius that the split `beyond` is drawn from."""
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the radii.

        Raises:
            UsageError: they are not in order, or there is no dimension.

        """
        widest = self.radius if self.beyond is None else self.beyond
        if not (0 < self.radius <= widest < math.inf and self.dimensions > 0):
            raise UsageError(f"{self}: needs dimensions, a radius above 0, and beyond no smaller")

    @property
    def space(self) -> spaces.Box:
        """The box around it."""
        radius = self.beyond or self.radius
        return spaces.Box(-radius, radius, (self.dimensions,), np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """A point within `radius`."""
        return self._within(self.radius, generator)

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """A point within `beyond`."""
        return None if self.beyond is None else self._within(self.beyond, generator)

    def holds(self, value: Value) -> bool:
        """Within `radius`."""
        return bool(np.linalg.norm(value) <= self.radius)

    def _within(self, radius: float, generator: np.random.Generator) -> Value:
        direction = generator.normal(size=self.dimensions)
        distance = radius * generator.random() ** (1 / self.dimensions)
        return np.asarray(distance * direction / np.linalg.norm(direction))


@dataclass(frozen=True)
class Dirichlet:
    """Probabilities along the last axis of `shape`, each group from Dir(concentration, ...)."""

    concentration: float
    shape: tuple[int, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            UsageError: the concentration is not above 0, or there are no groups.

        """
        if not (0 < self.concentration < math.inf and self.shape):
            raise UsageError(f"{self}: concentration must be above 0, and shape have an axis")

    @property
    def space(self) -> spaces.Box:
        """Numbers from 0 to 1."""
        return spaces.Box(0.0, 1.0, self.shape, np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """Probabilities that sum to 1 along the last axis."""
        *groups, size = self.shape
        return np.asarray(generator.dirichlet(np.full(size, self.concentration), groups))

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Nothing lies beyond."""
        return None

    def holds(self, value: Value) -> bool:
        """Training draws everything."""
        return True


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely: numbers, or tuples of numbers."""

    values: tuple[Any, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: there are none, two are equal, or they differ in shape.

        """
        shapes = {np.shape(value) for value in self.values}
        if len(shapes) != 1 or len(set(self.values)) != len(self.values):
            raise UsageError(f"{self}: values must be some, of one shape, and each there once")

    @property
    def space(self) -> spaces.Box:
        """The box around them."""
        values = np.asarray(self.values, np.float64)
        return spaces.Box(values.min(0), values.max(0), values.shape[1:], np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """One of them."""
        return np.asarray(self.values[generator.integers(len(self.values))], np.float64)

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Nothing lies beyond."""
        return None

    def holds(self, value: Value) -> bool:
        """Whether it is one of them."""
        return any(np.array_equal(value, one) for one in self.values)


class TaskDistribution:
    """Independent parameters by name: a distribution over tasks, and its splits."""

    def __init__(self, **parameters: Distribution):
        self.parameters = dict(sorted(parameters.items()))  # the order of the space
        self.space = spaces.Dict({name: d.space for name, d in self.parameters.items()})
        random = np.random.default_rng(0)
        has_beyond = any(d.draw_wider(random) is not None for d in parameters.values())
        self.splits = ("train", "test", "beyond") if has_beyond else ("train", "test")

    def __eq__(self, other: object) -> bool:
        """The same parameters, distributed alike."""
        return isinstance(other, TaskDistribution) and self.parameters == other.parameters

    __hash__ = None  # type: ignore[assignment]

    def sample(self, generator: np.random.Generator, split: str) -> dict[str, Value]:
        """One task of a split."""
        if split == "beyond":
            return self._sample_beyond(generator)
        finite = [d.values for d in self.parameters.values() if isinstance(d, Choice)]
        if len(finite) == len(self.parameters):
            indices = finite_split(math.prod(map(len, finite)), split)
            chosen = np.unravel_index(generator.choice(indices), [len(v) for v in finite])
            return {
                name: np.asarray(values[i], np.float64)
                for name, values, i in zip(self.parameters, finite, chosen, strict=True)
            }
        return {name: d.draw(generator) for name, d in self.parameters.items()}

    def to_json(self) -> Json:
        """Plain types; `from_json` is the way back."""
        return {
            name: {"kind": type(d).__name__, **dataclasses.asdict(d)}  # type: ignore[call-overload]
            for name, d in self.parameters.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, Any]]) -> Self:
        """What `to_json` gave, lists for tuples allowed.

        Raises:
            UsageError: names the parameter and what is wrong with it.

        """
        return cls(**{name: distribution_from_json(name, fields) for name, fields in data.items()})

    def _sample_beyond(self, generator: np.random.Generator) -> dict[str, Value]:
        while True:
            wider = {name: d.draw_wider(generator) for name, d in self.parameters.items()}
            task = {
                name: self.parameters[name].draw(generator) if value is None else value
                for name, value in wider.items()
            }
            if not all(d.holds(task[name]) for name, d in self.parameters.items()):
                return task


def finite_split(number: int, split: str) -> np.ndarray:
    """Indices of the tasks of a split: disjoint where there are over two tasks."""
    indices = np.arange(number)
    if number <= 2:
        return indices
    period = min(HELD_OUT, number)
    held_out = indices % period == period - 1
    chosen: np.ndarray = indices[held_out if split == "test" else ~held_out]
    return chosen


def distribution_from_json(name: str, fields: Mapping[str, Any]) -> Distribution:
    """One parameter's distribution from its kind and fields.

    Raises:
        UsageError: names the parameter and what is wrong with it.

    """
    kinds: Json = {
        kind.__name__: kind for kind in (Uniform, LogUniform, Normal, Ball, Dirichlet, Choice)
    }
    options = {key: _tuples(value) for key, value in fields.items() if key != "kind"}
    kind = fields.get("kind")
    if kind not in kinds:
        raise UsageError(f"task parameter {name}: kind {kind} must be one of {', '.join(kinds)}")
    try:
        distribution: Distribution = kinds[kind](**options)
    except TypeError as error:
        raise UsageError(f"task parameter {name}: {error}") from None
    return distribution


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
