"""What the records of results say about the targets that metarl has set itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metarl.support.types import Json

Records = Mapping[str, Json]
"""The records of tables by family, and those of long runs by `long/<name>`."""
MISSING = "not trained yet"
STUDENT = dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), 1))
"""Quantiles of Student's t at .975, by the degrees of freedom."""


@dataclass(frozen=True)
class Target:
    """A target, and what was measured of it."""

    text: str
    found: Callable[[Records], str]
    """Raises KeyError if what it needs was not trained."""


def lines(records: Records) -> list[tuple[str, str]]:
    """Each target with what was found."""
    found = []
    for target in TARGETS:
        try:
            found.append((target.text, target.found(records)))
        except KeyError:
            found.append((target.text, MISSING))
    return found


def judged(reached: bool, text: str) -> str:
    """The figures and whether they reach the target."""
    return f"{text}: {'reached' if reached else 'not reached'}"


def by_seed(rows: Json, name: str, step: int = -1) -> dict[int, float]:
    """Mean return on held-out tasks after so many inner steps, all if -1, by seed."""
    means = np.array(rows[name]["means"])[:, step]
    return dict(zip(rows[name]["seeds"], means, strict=True))


def common_seeds(rows: Json, *names: str) -> list[int]:
    """The seeds that these rows all have: each seed has its own held-out tasks.

    Raises KeyError if there is none.
    """
    common = sorted(set.intersection(*(set(rows[name]["seeds"]) for name in names)))
    if not common:
        raise KeyError(f"no seed has all of {', '.join(names)}")
    return common


def share_of_way(rows: Json, name: str, beside: Sequence[str] = ()) -> float:
    """How much of the way from the untrained policy to the oracle a row has gone at its end.

    Of the seeds that it, both controls and the rows `beside` it have.
    """
    seeds = common_seeds(rows, name, "random", "oracle", *beside)
    own, low, high = by_seed(rows, name), by_seed(rows, "random", 0), by_seed(rows, "oracle", 0)
    start, end, reached = (np.mean([x[seed] for seed in seeds]) for x in (low, high, own))
    return float((reached - start) / (end - start))


def half_width(values: np.ndarray) -> float:
    """Half the width of the 95 % interval of the mean of a value for each seed: [seeds].

    Raises KeyError if there are fewer than two.
    """
    return float(STUDENT[len(values) - 1] * values.std(ddof=1) / len(values) ** 0.5)


def within(name: str, most: float, least: float) -> Callable[[Records], str]:
    """Whether a long run has a training return of `least` within `most` environment steps."""

    def found(records: Records) -> str:
        run = records[f"long/{name}"]
        reached = [
            (steps, value)
            for steps, value in zip(run["env_steps"], run["after"], strict=True)
            if value >= least and steps <= most
        ]
        steps, value = min(reached, default=(run["env_steps"][-1], max(run["after"])))
        return judged(bool(reached), f"{value:.1f} at {steps / 1e6:.1f}M steps, one seed")

    return found


def curve(iteration: int, least: float) -> Callable[[Records], str]:
    """Whether the median of the long runs on HalfCheetahVel is `least` by an iteration."""

    def found(records: Records) -> str:
        runs = [records[f"long/half_cheetah_vel_{seed}"] for seed in (1, 2, 3)]
        values = np.array([run["after"][iteration // 10 - 1] for run in runs])
        each = ", ".join(f"{value:.1f}" for value in values)
        return judged(float(np.median(values)) >= least, f"{np.median(values):.1f} ({each})")

    return found


def share(family: str, least: float) -> Callable[[Records], str]:
    """Whether maml-trpo goes so much of the way from the untrained policy to the oracle."""

    def found(records: Records) -> str:
        gone = share_of_way(records[family]["rows"], "maml-trpo")
        return judged(gone >= least, f"{gone:.0%}")

    return found


def rl2_beside_maml(family: str) -> Callable[[Records], str]:
    """Whether RL² goes .9 of the way to the oracle that maml-trpo goes with as many steps."""

    def found(records: Records) -> str:
        rows = records[family]["rows"]
        both = ("rl2", "maml-trpo")
        own, other = (share_of_way(rows, name, both) for name in both)
        seeds = common_seeds(rows, *both, "random", "oracle")
        listed = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        text = f"{own:.0%} of the way to the oracle, MAML {other:.0%}, {listed}"
        return judged(own >= 0.9 * other, text)

    return found


def above_pretrained(family: str) -> Callable[[Records], str]:
    """Whether maml-trpo ends above the pretrained policy by more than the interval of the margin.

    The two of a seed meet the same held-out tasks, which differ from seed to seed: the margin is a
    mean of differences, and its interval Student's over seeds. That after one step is told too.
    """

    def found(records: Records) -> str:
        rows = records[family]["rows"]
        first, margins = (_margins(rows, step) for step in (1, -1))
        each = ", ".join(f"{margin:.1f}" for margin in margins)
        if len(margins) < 2:
            return f"{each}: {len(margins)} of at least 2 seeds, not judged"
        half = half_width(margins)
        text = judged(margins.mean() > half, f"{margins.mean():.1f} ± {half:.1f} ({each})")
        return f"{text}; after one step {first.mean():.1f} ± {half_width(first):.1f}"

    return found


def _margins(rows: Json, step: int) -> np.ndarray:
    """What maml-trpo is above the pretrained policy after a step, for each seed of both."""
    own, other = (by_seed(rows, name, step) for name in ("maml-trpo", "pretrained"))
    common = common_seeds(rows, "maml-trpo", "pretrained")
    return np.array([own[seed] - other[seed] for seed in common])


def gains(family: str, least: float, seeds: int = 3) -> Callable[[Records], str]:
    """Whether one inner step gains more than `least` in each of so many seeds."""

    def found(records: Records) -> str:
        means = np.array(records[family]["rows"]["maml-trpo"]["means"])
        gain = means[:, 1] - means[:, 0]
        each = ", ".join(f"{value:.1f}" for value in gain)
        if len(gain) < seeds:
            return f"{each}: {len(gain)} of {seeds} seeds, not judged"
        return judged(gain.min() > least, each)

    return found


TARGETS = (
    Target(
        "HalfCheetahDir: 255 after one step within 32M environment steps (RLlib: 60M or more)",
        within("half_cheetah_dir_tuned", 32e6, 255),
    ),
    Target("HalfCheetahDir: 75 % of the way to the oracle after 3 steps",
           share("HalfCheetahDir", 0.75)),
    Target("HalfCheetahDir: above the pretrained policy after 3 steps, by more than the interval",
           above_pretrained("HalfCheetahDir")),
    Target("HalfCheetahVel, 40 tasks x 20 episodes: −36 after one step, iterations 31 to 40",
           curve(40, -36)),
    Target("HalfCheetahVel, 40 tasks x 20 episodes: −33 after one step, iterations 51 to 60",
           curve(60, -33)),
    Target("HalfCheetahVel: above the pretrained policy after 3 steps, by more than the interval",
           above_pretrained("HalfCheetahVel")),
    Target("HalfCheetahVel: RL² at −50 in the last episode of a trial, within 8M environment steps",
           within("half_cheetah_vel_rl2", 8e6, -50)),
    *(Target(f"{family}: RL² adapts as far as MAML, less a tenth, with as many steps",
             rl2_beside_maml(family))
      for family in ("HalfCheetahVel", "HalfCheetahDir", "Navigation2D")),
    Target("Navigation2D: 90 % of the way to the oracle after 3 steps", share("Navigation2D", 0.9)),
    Target("Navigation2D: above the pretrained policy after 3 steps, by more than the interval",
           above_pretrained("Navigation2D")),
    Target("AntDir: above the pretrained policy after 3 steps, by more than the interval",
           above_pretrained("AntDir")),
    Target("AntDir: a gain of 200 after one step", gains("AntDir", 200)),
    Target("AntVel: above the pretrained policy after 3 steps, by more than the interval",
           above_pretrained("AntVel")),
    Target("AntVel: a gain after one step in each seed", gains("AntVel", 0)),
    Target("AntGoal: a gain after one step in each seed", gains("AntGoal", 0)),
)  # fmt: skip
