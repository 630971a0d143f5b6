"""Distributions over named task parameters, as data that can be written to JSON and read back.

    TaskDistribution(
        velocity=Uniform(0.0, 2.0, beyond=(0.0, 3.0), unit="m/s"),
        mass_scale=LogUniform(0.3, 3.4, shape=(7,)),
        direction=Choice((-1.0, 1.0)),
    )

The parameters are independent. The splits are `train`, `test` and, if a parameter has a wider range
`beyond`, a split of that name: its tasks are drawn from the wider ranges and lie outside the
training ranges. If there are finitely many tasks, and more than two, train and test are disjoint.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from gymnasium import spaces

from metarl.support.errors import UsageError
from metarl.support.types import Json, Space

Value = np.ndarray
HELD_OUT = 5
"""Every fifth task of a finite set is held out for testing, or the last one if there are fewer."""


class Distribution(Protocol):
    """The distribution of one task parameter: a dataclass, so that it can be written to JSON."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def space(self) -> Space:
        """Space of all values, including those beyond the training range."""

    def draw(self, generator: np.random.Generator) -> Value:
        """Draws a value from the training range."""

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Draws a value from the wider range, which contains training's; None without one."""

    def holds(self, value: Value) -> bool:
        """Whether the training range contains the value."""


@dataclass(frozen=True)
class Uniform:
    """Each element is uniform over [low, high]."""

    low: float
    high: float
    shape: tuple[int, ...] = ()
    beyond: tuple[float, float] | None = None
    """The wider range from which the split `beyond` is drawn."""
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            UsageError: a range is empty or infinite, or `beyond` does not contain more than [low,
                high].

        """
        low, high = self.beyond or (self.low, self.high)
        if self.beyond == (self.low, self.high):
            raise UsageError(f"{self}: beyond must be wider than low to high")
        if not (-math.inf < low <= self.low <= self.high <= high < math.inf):
            raise UsageError(
                f"{self}: low and high must be finite and in ascending order, and within beyond if "
                "it is given"
            )

    @property
    def space(self) -> spaces.Box:
        """Box of the wider range."""
        low, high = self.beyond or (self.low, self.high)
        return spaces.Box(low, high, self.shape, np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """Draws elements in [low, high]."""
        return np.asarray(generator.uniform(self.low, self.high, self.shape))

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Draws elements in `beyond`."""
        return self.beyond and np.asarray(generator.uniform(*self.beyond, self.shape))

    def holds(self, value: Value) -> bool:
        """Whether all elements are in [low, high]."""
        return bool(np.all((self.low <= value) & (value <= self.high)))


@dataclass(frozen=True)
class LogUniform(Uniform):
    """The logarithm of each element is uniform: [1, 2] is as likely as [2, 4]."""

    def __post_init__(self) -> None:
        """Checks the ranges, which must be above 0."""
        super().__post_init__()
        if (self.beyond or (self.low,))[0] <= 0:
            raise UsageError(f"{self}: low, and the lower bound of beyond, must be above 0")

    def draw(self, generator: np.random.Generator) -> Value:
        """Draws elements in [low, high]."""
        return self._between(self.low, self.high, generator)

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Draws elements in `beyond`."""
        return self.beyond and self._between(*self.beyond, generator)

    def _between(self, low: float, high: float, generator: np.random.Generator) -> Value:
        drawn = np.exp(generator.uniform(math.log(low), math.log(high), self.shape))
        # Rounding must not leave the space.
        return np.asarray(np.clip(drawn, low, high))


@dataclass(frozen=True)
class Normal:
    """Each element is normally distributed."""

    mean: float
    std: float
    shape: tuple[int, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            UsageError: the mean or std is infinite, or std is not above 0.

        """
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise UsageError(f"{self}: mean must be finite, and std must be finite and above 0")

    @property
    def space(self) -> spaces.Box:
        """Unbounded box."""
        return spaces.Box(-np.inf, np.inf, self.shape, np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """Draws normal elements."""
        return np.asarray(generator.normal(self.mean, self.std, self.shape))

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """None: there is no wider range."""
        return None

    def holds(self, value: Value) -> bool:
        """True: training draws from the whole space."""
        return True


@dataclass(frozen=True)
class Ball:
    """A point uniform in the ball around the origin; `Ball(3.0, 2)` is a disc."""

    radius: float
    dimensions: int
    beyond: float | None = None
    """The wider radius from which the split `beyond` is drawn."""
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the radii.

        Raises:
            UsageError: a radius or the dimension is not above 0, or `beyond` is not above `radius`.

        """
        widest = self.radius if self.beyond is None else self.beyond
        fits = 0 < self.radius <= widest < math.inf and self.dimensions > 0
        if not fits or self.beyond == self.radius:
            raise UsageError(
                f"{self}: dimensions and radius must be above 0, and beyond above radius"
            )

    @property
    def space(self) -> spaces.Box:
        """The box around the ball."""
        radius = self.beyond or self.radius
        return spaces.Box(-radius, radius, (self.dimensions,), np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """Draws a point within `radius`."""
        return self._within(self.radius, generator)

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """Draws a point within `beyond`."""
        return None if self.beyond is None else self._within(self.beyond, generator)

    def holds(self, value: Value) -> bool:
        """Whether the point is within `radius`."""
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
            UsageError: the concentration is not above 0, or `shape` is empty.

        """
        if not (0 < self.concentration < math.inf and self.shape):
            raise UsageError(f"{self}: concentration must be above 0, and shape must have an axis")

    @property
    def space(self) -> spaces.Box:
        """Box of numbers from 0 to 1."""
        return spaces.Box(0.0, 1.0, self.shape, np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """Draws probabilities that sum to 1 along the last axis."""
        *groups, size = self.shape
        return np.asarray(generator.dirichlet(np.full(size, self.concentration), groups))

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """None: there is no wider range."""
        return None

    def holds(self, value: Value) -> bool:
        """True: training draws from the whole space."""
        return True


@dataclass(frozen=True)
class Choice:
    """One of several equally likely values: numbers, or tuples of numbers."""

    values: tuple[float | tuple[float, ...], ...]
    unit: str = ""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: there are no values, two are equal, or their shapes differ.

        """
        shapes = {np.shape(value) for value in self.values}
        if len(shapes) != 1 or len(set(self.values)) != len(self.values):
            raise UsageError(
                f"{self}: values must not be empty, must differ, and must have the same shape"
            )

    @property
    def space(self) -> spaces.Box:
        """The box around the values."""
        values = np.asarray(self.values, np.float64)
        return spaces.Box(values.min(0), values.max(0), values.shape[1:], np.float64)

    def draw(self, generator: np.random.Generator) -> Value:
        """Draws one of the values."""
        return np.asarray(self.values[generator.integers(len(self.values))], np.float64)

    def draw_wider(self, generator: np.random.Generator) -> Value | None:
        """None: there is no wider range."""
        return None

    def holds(self, value: Value) -> bool:
        """Whether the value is one of `values`."""
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
        """Whether the parameters and their distributions are equal."""
        return isinstance(other, TaskDistribution) and self.parameters == other.parameters

    def sample(self, generator: np.random.Generator, split: str) -> dict[str, Value]:
        """Draws a task of a split."""
        if split == "beyond":
            return self._sample_beyond(generator)
        finite = [d.values for d in self.parameters.values() if isinstance(d, Choice)]
        if len(finite) == len(self.parameters):
            number = math.prod(map(len, finite))
            indices = finite_split(number, split, scattered=number > HELD_OUT)
            chosen = np.unravel_index(generator.choice(indices), [len(v) for v in finite])
            return {
                name: np.asarray(values[i], np.float64)
                for name, values, i in zip(self.parameters, finite, chosen, strict=True)
            }
        return {name: d.draw(generator) for name, d in self.parameters.items()}

    def to_json(self) -> Json:
        """The distributions in plain types, from which `from_json` restores them."""
        return {
            name: {"kind": type(d).__name__, **dataclasses.asdict(d)}
            for name, d in self.parameters.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, object]]) -> Self:
        """The distribution that `to_json` wrote; lists may take the place of tuples.

        Raises:
            UsageError: a distribution is malformed; the message names the parameter.

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


def finite_split(number: int, split: str, scattered: bool = False) -> np.ndarray:
    """Indices of the tasks of a split; splits of more than two tasks are disjoint.

    Args:
        number: of all tasks.
        split: train or test.
        scattered: whether the split is not every fifth task, but as many in no order, so that no
            row or column of a product of values is held out as a whole.

    """
    indices = np.arange(number)
    if number <= 2:
        return indices
    period = min(HELD_OUT, number)
    held_out = indices % period == period - 1
    if scattered:
        indices = np.random.default_rng(0).permutation(number)
    chosen: np.ndarray = indices[held_out if split == "test" else ~held_out]
    return chosen


def distribution_from_json(name: str, fields: Mapping[str, object]) -> Distribution:
    """The distribution of one parameter, from its kind and fields.

    Raises:
        UsageError: a distribution is malformed; the message names the parameter.

    """
    kinds: dict[str, Callable[..., Distribution]] = {
        kind.__name__: kind for kind in (Uniform, LogUniform, Normal, Ball, Dirichlet, Choice)
    }
    options = {key: _tuples(value) for key, value in fields.items() if key != "kind"}
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise UsageError(f"task parameter {name}: kind {kind} must be one of {', '.join(kinds)}")
    try:
        distribution = kinds[kind](**options)
    except TypeError as error:
        raise UsageError(f"task parameter {name}: {error}") from None
    return distribution


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
