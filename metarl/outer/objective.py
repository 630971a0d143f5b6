"""What an outer loop improves: means over tasks, as functions of θ.

The loop chooses the terms. An objective replays the adaptation of each task from θ and hands the
replayed steps to a term, which gives one number for each task.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from metarl.policies.action_distributions import Distribution
from metarl.policies.parameters import Parameters


@dataclass(frozen=True)
class Stage:
    """Steps that some tasks took at one stage of their adaptation."""

    old: Distribution
    """The policy that took them, adapted from the θ_0 of the experience."""
    new: Distribution
    """The policy adapted from θ."""
    mean: Callable[[Tensor], Tensor]
    """Mean over the steps of each task: [tasks, episodes, time] -> [tasks]."""


@dataclass(frozen=True)
class Replay:
    """The adaptation of some tasks, replayed from θ."""

    after: Stage
    """The steps after adaptation."""
    before: Callable[[], list[Stage]]
    """The steps before each inner step; they are computed only for a term that asks for them."""
    ratio: Tensor  # [tasks, episodes, time]: π_new(a|s) / π_old(a|s), after adaptation
    advantages: Tensor  # [tasks, episodes, time]: 0 on padding
    correction: Tensor  # [tasks]: what the surrogate adds for the sampling before adaptation


Term: TypeAlias = Callable[[Replay], Tensor]
"""Some tasks -> one number for each of them, [tasks]; the objective is the mean over all tasks."""


def surrogate(replay: Replay) -> Tensor:
    """mean_t π_new(a_t|s_t) / π_old(a_t|s_t) · A_t, plus the correction: [tasks]."""
    return replay.after.mean(replay.ratio * replay.advantages) + replay.correction


def divergence(replay: Replay) -> Tensor:
    """mean_t KL(π_old(·|s_t) ‖ π_new(·|s_t)) after adaptation: [tasks]."""
    return replay.after.mean(replay.after.old.kl(replay.after.new))


class Objective(Protocol):
    """What every outer loop can ask of an objective."""

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(surrogate, KL) at θ; the KL is 0 where the experience was collected."""

    def gradient(self, parameters: Mapping[str, Tensor]) -> tuple[float, Parameters]:
        """(surrogate, ∇_θ surrogate) at θ."""

    def displacement(self) -> Parameters:
        """mean_i θ'_i(θ_0) − θ_0."""


class PolicyObjective(Objective, Protocol):
    """The objective of a policy: the outer loop can choose its terms."""

    def means(self, parameters: Mapping[str, Tensor], *terms: Term) -> list[float]:
        """The mean over tasks of each term at θ."""

    def gradient(
        self, parameters: Mapping[str, Tensor], term: Term = surrogate
    ) -> tuple[float, Parameters]:
        """(mean of the term, its gradient by θ) at θ."""

    def curvature(
        self, parameters: Mapping[str, Tensor], term: Term, stride: int = 1
    ) -> Callable[[Parameters], Parameters]:
        """v -> (∇²_θ mean of the term) v, on every `stride`-th time step."""

    def returns(self) -> Tensor:
        """Mean return of each task after adaptation: [tasks]."""
