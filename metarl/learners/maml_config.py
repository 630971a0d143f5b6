"""One run is one frozen, documented dataclass."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

from metarl.learners.config import PolicyRunConfig, defaults_of
from metarl.learners.presets import find_algorithm
from metarl.maml.estimators import ESTIMATORS
from metarl.maml.inner_loop import INNER_UPDATES
from metarl.outer.registry import (
    OUTER_LOOPS,
    OuterOptions,
    expect_own_options,
    extended,
    options_of_others,
)
from metarl.policies.mlp import Activation
from metarl.sampling.baseline import BASELINES
from metarl.sampling.task_choice import TaskChoiceOptions
from metarl.support.errors import UsageError
from metarl.support.options import Count, NonNegative, Positive, Probability, WholeNumber
from metarl.support.parts import Parts, takes
from metarl.support.schema import expect

PARTS: dict[str, Parts[Any]] = {
    "estimator": ESTIMATORS,
    "inner_update": INNER_UPDATES,
    "baseline": BASELINES,
    "outer": OUTER_LOOPS,
}
"""The options that name a part of the run, which may be the user's own."""


@dataclass(frozen=True, kw_only=True)
class MAMLConfig(OuterOptions, TaskChoiceOptions, PolicyRunConfig):
    """A meta-training run (by default MAML-TRPO at the sizes that ProMP and Deleu use).

    Options that are not given are those of the preset, of the algorithm, and then the defaults.
    """

    learner: Literal["maml"] = "maml"
    algorithm: str = "maml-trpo"
    """A named preset of the options below, which can still be set one by one; `metarl algorithms`
    lists them."""
    sampling_device: Literal["cpu", "cuda"] = "cpu"
    """Where the policy acts while rollouts are collected, if physics run on the CPU: a small policy
    is not worth sending every step to a GPU. With --simulation warp it acts where the physics run.
    """

    meta_batch_size: Count = 40
    """Tasks of a meta-iteration."""
    episodes: Count = 20
    """Episodes of each task, before and again after each inner step."""
    inner_lr: Positive = 0.1
    """Step size of the inner loop."""
    inner_steps: WholeNumber = 1
    """Inner steps, each on fresh rollouts; 0 trains one policy for all tasks."""
    discount: Probability = 0.99
    """Discount γ of the advantages; reported returns are undiscounted."""
    gae_lambda: Probability = 0.9
    """λ of generalised advantage estimation. Published implementations use 1. With 1, noise in far
    rewards hides the small gain of one inner step, and learning starts late (return on
    HalfCheetahDir, seed 1, after 50 iterations: 93; with 0.9 it is 122)."""
    baseline: str = "linear"
    """State values for the advantages, fitted to the rollouts of each task: linear in the
    observation and its square, or network, with a small network on top, which takes seconds per
    iteration; or MODULE:FUNCTION."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Hidden layers of the policy."""
    activation: Activation = "tanh"
    """Activation of the hidden layers."""
    normalise_observations: bool = False
    """Normalise observations by their mean and standard deviation over all earlier iterations."""
    normalise_rewards: bool = False
    """Divide rewards by the standard deviation of the advantages of all tasks over all earlier
    iterations. By default the advantages of each task are divided by their own, so that all tasks
    take inner steps of a similar size; with this, tasks with larger rewards take larger ones."""

    estimator: str = "naive"
    """Surrogate that the inner loop maximises: naive, lvc, dice, loaded_dice, taypo2, first_order
    or MODULE:FUNCTION. All of metarl but dice, which knows no λ, have the same gradient. They
    differ in the derivative of this gradient, which the meta-gradient needs; first_order leaves it
    out. Naive learns both half cheetahs in fewer steps than lvc, in spite of its bias."""
    inner_update: str = "gradient"
    """What an inner step does with the gradient of the surrogate: gradient ascent, or what
    MODULE:FUNCTION returns."""
    sampling_correction: bool = False
    """Credit the actions before adaptation with the return after it (E-MAML). It is meant for the
    naive estimator: dice, loaded_dice and taypo2 include this effect already."""
    correction_over_steps: Literal["sum", "mean"] = "sum"
    """Whether that credit is summed over the steps before adaptation, which is exact, or averaged,
    as published implementations do. The sum is noisy: on 20 tasks of Navigation2D, after 25
    iterations, its noise was 60 times that of the rest of the gradient."""
    adapts: Literal["all", "head", "context"] = "all"
    """What the inner loop changes: all parameters, the last layer and σ (ANIL), or a context that
    is an input of the policy (CAVIA)."""
    context_size: Count = 5
    """Length of the context, where that is what adapts."""
    observe_task: bool = False
    """The policy sees the task beside the observation: an oracle, to compare with."""
    step_sizes: Literal["fixed", "per_layer", "per_parameter"] = "fixed"
    """Whether the inner step size is a number, or learned: one for each tensor of parameters, or
    one for each of their elements (Meta-SGD)."""
    test_later_lr: NonNegative = 1.0
    """At evaluation, steps after the first have this times the step size; Finn et al. have 0.5."""

    outer: str = "trpo"
    """How θ is updated: trpo (trust region), ppo (clipped surrogate), gradient (by Adam), natural
    (gradient, without a line search), reptile, evolution or MODULE:CLASS; each loop has options of
    its own."""

    changeable: ClassVar[frozenset[str]] = PolicyRunConfig.changeable | {
        "sampling_device",
        "test_later_lr",
    }

    of_policy: ClassVar[frozenset[str]] = PolicyRunConfig.of_policy | {
        "hidden_sizes",
        "activation",
        "context_size",
        "normalise_observations",
    }

    def __new__(cls, *_: object, **options: Any) -> Self:
        """Options of a class that has those of the outer loop too, if that is the user's own."""
        return super().__new__(extended(cls, options.get("outer", cls.outer)), **options)

    def __post_init__(self) -> None:
        """Checks every choice and every number.

        Raises:
            UsageError: names the option, its value and what would be right.

        """
        super().__post_init__()
        find_algorithm(self.algorithm)
        if min(self.hidden_sizes, default=1) < 1:
            raise UsageError(f"--hidden-sizes {self.hidden_sizes} must be at least 1 each")
        for name, parts in PARTS.items():
            parts.find(getattr(self, name))
        loop = OUTER_LOOPS.find(self.outer)
        if not takes("options")(loop.check):
            raise UsageError(
                f"--outer {self.outer}: check must be a static or class method that takes the "
                "options of the run: it is called before the loop is made"
            )
        loop.check(self)

    def to_json(self) -> dict[str, Any]:
        """The options that config.json holds: not those of other outer loops."""
        others = options_of_others(self.outer)
        return {name: value for name, value in super().to_json().items() if name not in others}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The configuration that config.json of a run folder holds.

        Raises:
            UsageError: a part of the run, or one of its options, does not exist here.
            ValueError: an option is not of its type.

        """
        for name, parts in PARTS.items():
            part = data.get(name, getattr(cls, name))
            expect(part, str, f'"{name}"')
            if ":" not in part and part not in parts.names():
                raise UsageError(
                    f"the run has {parts.option} {part}, which no installed package announces: "
                    "install the package that has it"
                )
        own = extended(cls, data.get("outer", cls.outer))
        return super(MAMLConfig, own).from_json(data)

    def extended(self, outer: str) -> Self:
        """The same options, of a class that has those of the outer loop `outer` too."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        cls = extended(type(self), outer)
        return cls(**{**defaults_of(cls), **held})

    @classmethod
    def of(cls, algorithm: str, **options: Any) -> Self:
        """The configuration of a named algorithm, with `options` over its own.

        Raises:
            UsageError: there is no such algorithm, or an option is out of range.

        """
        return cls(algorithm=algorithm, **options)

    def _expect_own_options(self, given: Collection[str]) -> None:
        expect_own_options(self.outer, given)

    def _named_options(self) -> dict[str, Any]:
        """The options that the algorithm and the preset name."""
        return find_algorithm(self.algorithm).options | super()._named_options()

    @property
    def shipped_name(self) -> str:
        """The name under which a family ships options for this run."""
        return self.algorithm

    @property
    def defaults(self) -> dict[str, Any]:
        """The options that have a default: that of the algorithm first."""
        return super().defaults | find_algorithm(self.algorithm).options

    @property
    def episodes_per_iteration(self) -> int:
        """Episodes of all tasks, before and after each inner step."""
        return self.environments * (self.inner_steps + 1)

    @property
    def environments(self) -> int:
        """One for each episode of each task."""
        return self.meta_batch_size * self.episodes
