"""Random numbers as a function of what they are for, never of what was drawn before.

Every generator derives by counter from (seed, phase, use, iteration, task, stage). A resumed run
therefore needs only its iteration number, evaluation never disturbs training, and the number of
threads or processes changes no draw.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace, device

Array = Any
"""A NumPy array or a torch tensor."""


class NoiseSource(Protocol):
    """What the noise of actions is drawn from: NumPy's generator, or one on a device."""

    def standard_normal(self, size: tuple[int, ...], dtype: type[np.float32], /) -> Array:
        """Standard normal numbers of that shape."""

    def gumbel(self, *, size: tuple[int, ...]) -> Array:
        """Standard Gumbel numbers of that shape, float64."""


class Phase(IntEnum):
    """What part of a run draws; phases never share a stream."""

    TRAINING = 0
    EVALUATION = 1
    ADAPTATION = 2


class Use(IntEnum):
    """What a stream is drawn for."""

    PARAMETERS = 0
    TASK = 1
    RESET = 2
    ACTION = 3
    INTERVAL = 4
    PERTURBATION = 5
    CHOICE = 6


@dataclass(frozen=True)
class RandomKey:
    """Names all the streams of one meta-iteration (or of one evaluation)."""

    seed: int
    """Seed of the run, 0 or greater."""
    phase: Phase = Phase.TRAINING
    iteration: int = 0

    def _sequence(self, use: Use, task: int, stage: int) -> np.random.SeedSequence:
        # The spawn key is hashed apart from the entropy, so that no two keys can collide by
        # concatenation of their words.
        counters = (self.phase, use, self.iteration, task, stage)
        return np.random.SeedSequence(self.seed, spawn_key=counters)

    def generator(self, use: Use, task: int = 0, stage: int = 0) -> np.random.Generator:
        """A generator for `use`; `stage` counts the inner steps taken before the draw."""
        return np.random.Generator(np.random.Philox(self._sequence(use, task, stage)))

    def seeds(self, use: Use, task: int, stage: int, number: int) -> list[int]:
        """`number` seeds, for interfaces that take integers.

        They have 64 bits, and 32 bits for `Use.RESET`: environments that seed NumPy's legacy
        generator (`np.random.seed`) in `reset` raise a ValueError for larger ones.
        """
        bits = np.uint32 if use is Use.RESET else np.uint64
        words = self._sequence(use, task, stage).generate_state(number, bits)
        return [int(word) for word in words]

    @property
    def interval_seed(self) -> int:
        """Seed of the bootstrap of an evaluation's intervals."""
        return self.seeds(Use.INTERVAL, 0, 0, 1)[0]


GAMMA = 0x9E3779B97F4A7C15 - 2**64
"""The step of SplitMix64's counter, as a signed integer."""


def mixed(x: Array) -> Array:
    """SplitMix64's hash of 64-bit words: int64 [...] -> int64 [...], one to one.

    NumPy and torch alike: signed products are those of unsigned words modulo 2^64, and torch has
    no unsigned ones.
    """
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def random_words(streams: Array, first: Array, size: int) -> Array:
    """53 random bits as functions of (stream, counter): int64 [...], [...] -> int64 [..., size].

    SplitMix64 (Steele, Lea, Flood 2014): the counters first + 1 to first + size are hashed, so that
    many streams advance in one array operation. Not for cryptography.

    Args:
        streams: where each stream starts; streams whose starts are few multiples of `GAMMA` apart
            overlap, so hash what is not random.
        first: how many numbers of each stream were used before; an integer or an array.
        size: how many numbers to give.

    """
    xp = array_namespace(streams)
    counters = xp.arange(1, size + 1, dtype=xp.int64, device=device(streams))
    counters = counters + (first if isinstance(first, int) else first[..., None])
    return _shifted(mixed(streams[..., None] + counters * GAMMA), 11)


def _shifted(x: Array, bits: int) -> Array:
    """The words without their lowest bits; the sign bit moves as any other."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
