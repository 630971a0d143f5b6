"""One run is one frozen, documented dataclass."""

import math
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeAlias,
    get_args,
    get_origin,
    get_type_hints,
)

from metarl.learners.config import FamilyRunConfig
from metarl.learners.presets import find_algorithm
from metarl.maml.estimators import SURROGATES
from metarl.outer.registry import OUTER_LOOPS
from metarl.policies.mlp import Activation
from metarl.support.errors import UsageError
from metarl.support.options import option

if TYPE_CHECKING:
    Estimator: TypeAlias = str
    OuterName: TypeAlias = str
else:  # what is registered is what the command line offers
    Estimator = Literal[(*SURROGATES, "first_order")]
    OuterName = Literal[tuple(OUTER_LOOPS)]


@dataclass(frozen=True, kw_only=True)
class MAMLConfig(FamilyRunConfig):
    """A meta-training run (by default MAML-TRPO at the sizes that ProMP and Deleu use)."""

    learner: Literal["maml"] = "maml"
    """Which learner trains."""
    algorithm: str = "maml-trpo"
    """A named preset of the options below, which can still be set one by one; `metarl algorithms`
    lists them."""
    sampling_device: Literal["cpu", "cuda"] = "cpu"
    """Where the policy acts while rollouts are collected. Physics run on the CPU, and a small
    policy is not worth sending every step to a GPU."""

    meta_batch_size: int = 40
    """Tasks of a meta-iteration."""
    episodes: int = 20
    """Episodes of each task, before and again after each inner step."""
    inner_lr: float = 0.1
    """Step size of the inner loop."""
    inner_steps: int = 1
    """Inner steps, each on fresh rollouts; 0 trains one policy for all tasks."""
    discount: float = 0.99
    """Discount γ of the advantages; reported returns are undiscounted."""
    gae_lambda: float = 0.9
    """λ of generalised advantage estimation. The published codes have 1: what the baseline does not
    explain of far rewards then hides the small gain of one inner step, and learning starts late
    (HalfCheetahDir, seed 1, after 50 iterations: 93, with 0.9 it is 122)."""
    baseline: Literal["linear", "network"] = "linear"
    """State values of the advantages, fitted to each task's rollouts: linear in the observation and
    its square, or with a small network on top, which takes seconds an iteration."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Hidden layers of the policy."""
    activation: Activation = "tanh"
    """Activation of the hidden layers."""
    normalise_observations: bool = False
    """Normalise observations by the mean and deviation of all earlier iterations' ones."""

    estimator: Estimator = "lvc"
    """Surrogate that the inner loop follows: all have the same gradient, and differ in what the
    meta-gradient makes of its derivative; first_order leaves that out."""
    sampling_correction: bool = False
    """Credit what was sampled before adaptation with the return after it (E-MAML); meant for the
    naive estimator, as dice, loaded_dice and taypo2 hold the effect already."""
    correction_over_steps: Literal["sum", "mean"] = "sum"
    """Whether that credit is summed over the steps before adaptation, which is exact, or their
    mean, as the published codes have it: on 20 tasks of Navigation2D, after 25 iterations, the
    sum's noise was 60 times that of the rest of the gradient."""
    adapts: Literal["all", "head", "context"] = "all"
    """What the inner loop changes: all parameters, the last layer and σ (ANIL), or a context that
    is an input of the policy (CAVIA)."""
    context_size: int = 5
    """Length of the context, where that is what adapts."""
    observe_task: bool = False
    """The policy sees the task beside the observation: an oracle, to compare with."""
    step_sizes: Literal["fixed", "per_layer", "per_parameter"] = "fixed"
    """Whether the inner step size is a number, or learned: one for each tensor of parameters, or
    one for each of their elements (Meta-SGD)."""
    test_later_lr: float = 1.0
    """At evaluation, steps after the first have this times the step size; Finn et al. have 0.5."""

    outer: OuterName = "trpo"
    """How θ is updated: trust region, clipped surrogate, gradient by Adam, natural gradient without
    a line search, Reptile or evolution."""
    outer_lr: float = 1e-3
    """Step size of Adam in ppo, gradient and evolution, and ε of reptile."""
    ppo_epochs: int = 5
    """Steps of Adam on the same rollouts."""
    clip: float = 0.3
    """The ratio of probabilities in ppo is clipped to 1 ± this."""
    inner_kl_penalty: float = 0.0
    """Weight in ppo of the KL between the policies before adaptation (ProMP)."""
    inner_kl_target: float = 0.0
    """Above 0, the penalty is adapted so that this KL stays near it."""
    sigma: float = 0.05
    """Standard deviation of evolution's perturbations of θ."""

    max_kl: float = 0.01
    """Trust region: mean KL divergence between adapted policies."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations."""
    cg_damping: float = 1e-5
    """Added to the diagonal of the Fisher matrix."""
    line_search_steps: int = 15
    """Steps tried at most."""
    line_search_ratio: float = 0.8
    """Next length where a step does not improve the surrogate."""
    fisher_fraction: float = 0.1
    """Share of the time steps, evenly spaced, that Fisher products see; 1 takes all. The gradient
    and the line search always see all."""

    changeable: ClassVar[frozenset[str]] = FamilyRunConfig.changeable | {
        "sampling_device",
        "test_later_lr",
    }

    def __post_init__(self) -> None:
        """Checks every choice and every number.

        Raises:
            UsageError: names the option, its value and what would be right.

        """
        super().__post_init__()
        find_algorithm(self.algorithm)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{option(name)} {getattr(self, name)} must be one of {', '.join(choices)}"
                )
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= lowest):
                raise UsageError(f"{option(name)} {value} must be a number of at least {lowest}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option(name)} {value} must be a number above 0")
        for name in ("discount", "gae_lambda", "fisher_fraction", "line_search_ratio"):
            if getattr(self, name) > 1:
                raise UsageError(f"{option(name)} {getattr(self, name)} must be at most 1")
        if min(self.hidden_sizes, default=1) < 1:
            raise UsageError(f"--hidden-sizes {self.hidden_sizes} must be at least 1 each")
        for wrong, reason in self._contradictions():
            if wrong:
                raise UsageError(reason)

    def _contradictions(self) -> list[tuple[bool, str]]:
        """Combinations of parts that make no sense, each with the reason."""
        blind = self.outer in ("reptile", "evolution")
        outer = f"--outer {self.outer}"
        return [
            (
                blind and self.estimator != "first_order",
                f"{outer} takes no derivative of the inner loop: --estimator must be first_order, "
                f"not {self.estimator}",
            ),
            (
                blind and self.sampling_correction,
                f"{outer} has no surrogate for --sampling-correction to correct",
            ),
            (
                self.outer == "reptile" and self.inner_steps == 0,
                f"{outer} moves to the adapted parameters: --inner-steps must be at least 1",
            ),
            (
                self.outer == "reptile" and self.step_sizes != "fixed",
                f"{outer} has no gradient for --step-sizes {self.step_sizes}",
            ),
            (
                self.outer == "reptile" and self.adapts != "all",
                f"{outer} moves only what the inner loop changes: --adapts must be all, not "
                f"{self.adapts}",
            ),
            (
                self.outer == "evolution" and self.meta_batch_size % 2 == 1,
                f"{outer} needs pairs: --meta-batch-size {self.meta_batch_size} must be even",
            ),
        ]

    @classmethod
    def of(cls, algorithm: str, **options: Any) -> Self:
        """The configuration of a named algorithm, with `options` over its preset.

        Raises:
            UsageError: there is no such algorithm, or an option is out of range.

        """
        return cls(algorithm=algorithm, **{**find_algorithm(algorithm).options, **options})

    @property
    def episodes_per_iteration(self) -> int:
        """Episodes of all tasks, before and after each inner step."""
        return self.meta_batch_size * self.episodes * (self.inner_steps + 1)


_LOWEST: dict[str, float] = {
    "meta_batch_size": 1,
    "episodes": 1,
    "inner_steps": 0,
    "discount": 0,
    "gae_lambda": 0,
    "context_size": 1,
    "test_later_lr": 0,
    "ppo_epochs": 1,
    "inner_kl_penalty": 0,
    "inner_kl_target": 0,
    "cg_iterations": 1,
    "cg_damping": 0,
    "line_search_steps": 1,
}

_CHOICES = {
    name: get_args(hint)
    for name, hint in get_type_hints(MAMLConfig).items()
    if get_origin(hint) is Literal
}

_POSITIVE = (
    *("inner_lr", "outer_lr", "clip", "sigma"),
    *("max_kl", "fisher_fraction", "line_search_ratio"),
)
