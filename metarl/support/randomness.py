"""Random numbers as a function of what they are for, never of what was drawn before.

Every generator derives by counter from (seed, phase, use, iteration, task, stage). A resumed run
therefore needs only its iteration number, evaluation never disturbs training, and the number of
threads or processes changes no draw.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


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
        """`number` 64-bit seeds, for interfaces that take integers (`Env.reset(seed=...)`)."""
        words = self._sequence(use, task, stage).generate_state(number, np.uint64)
        return [int(word) for word in words]

    @property
    def interval_seed(self) -> int:
        """Seed of the bootstrap of an evaluation's intervals."""
        return self.seeds(Use.INTERVAL, 0, 0, 1)[0]


def uniform_numbers(seeds: np.ndarray, steps: np.ndarray, size: int) -> np.ndarray:
    """Numbers in [0, 1) that are functions of (seed, step): uint64 [n], [n] -> [n, size].

    SplitMix64 (Steele, Lea, Flood 2014): a counter that is hashed, so that many streams advance in
    one array operation. Not for cryptography.
    """
    counters = (steps * np.uint64(size))[:, None] + np.arange(1, size + 1, dtype=np.uint64)
    x: np.ndarray = seeds[:, None] + counters * np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    numbers: np.ndarray = (x >> np.uint64(11)) * 2.0**-53
    return numbers
