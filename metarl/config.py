"""One run is one frozen, documented dataclass."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from metarl.errors import UsageError
from metarl.policy import Activation


@dataclass(frozen=True)
class Config:
    """A meta-training run with MAML-TRPO (Finn et al. 2017; defaults: ProMP's and Deleu's)."""

    family: str
    """Task family, MODULE:ID; the module is imported first, from the working folder too."""
    family_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """The family's variant, name and value in turn: `observation finn action_scale 1`."""
    iterations: int = 500
    """Meta-updates."""
    run_dir: Path | None = None
    """The run folder itself; runs/<family>/seed-<seed> if not given."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder."""
    seed: int = 1
    """Names all random numbers of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where adaptation and meta-update run; auto takes a GPU when there is one."""
    sampling_device: Literal["cpu", "cuda"] = "cpu"
    """Where the policy acts while rollouts are collected. Physics run on the CPU, and a small
    policy is not worth sending every step to a GPU."""
    threads: int = 0
    """Threads for the simulator and for the learner, which take turns; 0 is one for each core."""

    meta_batch_size: int = 40
    """Tasks of a meta-iteration."""
    episodes: int = 20
    """Episodes of each task, before and again after each inner step."""
    horizon: int | None = None
    """Steps after which an episode is truncated; the family's own if not given."""
    inner_lr: float = 0.1
    """Step size of the inner loop."""
    inner_steps: int = 1
    """Inner steps, each on fresh rollouts."""
    discount: float = 0.99
    """Discount γ of the advantages; reported returns are undiscounted."""
    gae_lambda: float = 0.9
    """λ of generalised advantage estimation. The published codes have 1: what the baseline does not
    explain of far rewards then hides the small gain of one inner step, and learning starts late."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Hidden layers of the policy."""
    activation: Activation = "tanh"
    """Activation of the hidden layers."""

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

    eval_every: int = 10
    """Evaluate on held-out tasks after every so many iterations; 0 never does."""
    eval_tasks: int = 40
    """Held-out tasks of an evaluation."""
    checkpoint_every: int = 10
    """Iterations between checkpoints; the last one is always written."""

    def __post_init__(self) -> None:
        """Checks every number.

        Raises:
            UsageError: names the option, its value and what would be right.

        """
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= lowest):
                raise UsageError(f"{option(name)} {value} must be a number of at least {lowest}")
        for name in ("inner_lr", "max_kl", "fisher_fraction", "line_search_ratio"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option(name)} {value} must be a number above 0")
        for name in ("discount", "gae_lambda", "fisher_fraction", "line_search_ratio"):
            if getattr(self, name) > 1:
                raise UsageError(f"{option(name)} {getattr(self, name)} must be at most 1")
        if min(self.hidden_sizes, default=1) < 1:
            raise UsageError(f"--hidden-sizes {self.hidden_sizes} must be at least 1 each")

    @property
    def run_folder(self) -> Path:
        """`run_dir`, or the folder that the family and the seed name."""
        return self.run_dir or Path("runs", self.family.rpartition(":")[2], f"seed-{self.seed}")


_LOWEST: dict[str, float] = {
    "iterations": 1,
    "seed": 0,
    "threads": 0,
    "meta_batch_size": 1,
    "episodes": 1,
    "horizon": 1,
    "inner_steps": 1,
    "discount": 0,
    "gae_lambda": 0,
    "cg_iterations": 1,
    "cg_damping": 0,
    "line_search_steps": 1,
    "eval_every": 0,
    "eval_tasks": 1,
    "checkpoint_every": 1,
}

RESUMABLE = {
    *("iterations", "run_dir", "resume", "device", "sampling_device", "threads"),
    *("eval_every", "eval_tasks", "checkpoint_every"),
}
"""Options that a resumed run may change: they change no number of training."""


def option(name: str) -> str:
    """A field's name on the command line."""
    return "--" + name.replace("_", "-")
