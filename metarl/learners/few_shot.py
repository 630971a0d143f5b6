"""A meta-learner for supervised few-shot tasks; `metarl.runs.run.run` trains it like any other."""

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from metarl.evaluation.evaluation import Evaluation
from metarl.maml.inner_loop import (
    STEP_SIZE,
    InnerLoop,
    every_parameter,
    initial_step_sizes,
    step_size_metrics,
)
from metarl.maml.supervised import (
    FewShotObjective,
    Loss,
    initial_parameters,
    module_objective,
    query_outputs,
)
from metarl.outer.policy_gradient import PolicyGradient
from metarl.outer.reptile import Reptile
from metarl.policies.parameters import Parameters
from metarl.support.errors import UsageError
from metarl.support.options import option
from metarl.support.parallel import Workers, pick_device
from metarl.support.randomness import Phase, RandomKey, Use
from metarl.tasks.samples import Samples

PLAIN_RATES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Step sizes that plain fine-tuning chooses from."""


@dataclass(frozen=True)
class FewShotConfig:
    """A meta-training run on supervised tasks."""

    iterations: int = 1000
    """Meta-updates."""
    run_dir: Path = Path("runs/few_shot")
    """The run folder itself."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder."""
    seed: int = 1
    """Names all random numbers of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner runs; auto takes a GPU when there is one."""
    threads: int = 0
    """Threads of the learner; 0 is one for each core."""

    meta_batch_size: int = 25
    """Tasks of a meta-update."""
    inner_lr: float = 0.01
    """Step size of the inner loop."""
    inner_steps: int = 1
    """Inner steps of training, all on the support set."""
    test_steps: int = 10
    """Inner steps of an evaluation."""
    adapts: Literal["all", "head"] = "all"
    """What the inner loop changes: all parameters, or those that the problem calls its head."""
    step_sizes: Literal["fixed", "per_layer", "per_parameter"] = "fixed"
    """Whether the inner step size is a number, or learned (per_parameter: Meta-SGD)."""
    first_order: bool = False
    """Leave out the second derivatives."""
    outer: Literal["gradient", "reptile"] = "gradient"
    """Adam along the meta-gradient, or Reptile."""
    outer_lr: float = 1e-3
    """Step size of Adam, or ε of reptile."""

    eval_every: int = 100
    """Evaluate on held-out tasks after every so many iterations; 0 never does."""
    eval_tasks: int = 200
    """Held-out tasks of an evaluation."""
    checkpoint_every: int = 100
    """Iterations between checkpoints; the last one is always written."""

    def __post_init__(self) -> None:
        """Checks every number.

        Raises:
            UsageError: names the option, its value and what would be right.

        """
        counts = ("iterations", "meta_batch_size", "inner_steps", "test_steps", "eval_tasks")
        for name in (*counts, "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{option(name)} {getattr(self, name)} must be at least 1")
        for name in ("eval_every", "seed", "threads"):
            if getattr(self, name) < 0:
                raise UsageError(f"{option(name)} {getattr(self, name)} must be at least 0")
        for name in ("inner_lr", "outer_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{option(name)} {getattr(self, name)} must be above 0")
        if self.outer == "reptile" and (self.step_sizes != "fixed" or self.adapts != "all"):
            raise UsageError(
                "--outer reptile moves only what the inner loop changes: --step-sizes must be "
                "fixed and --adapts all"
            )

    @property
    def run_folder(self) -> Path:
        """The run folder."""
        return self.run_dir


class Problem(Protocol):
    """A distribution over supervised tasks, and the model that learns them."""

    name: str
    module: nn.Module
    loss: Loss
    head: tuple[str, ...]
    """Names of the parameters that `--adapts head` adapts."""
    measure: str
    """What `score` measures: the name of the curves."""
    groups: tuple[str, ...]
    """Names of several domains; task i is of domain i modulo their number. Empty: one domain."""

    def sample(
        self, number: int, generator: Callable[[int], np.random.Generator], split: str
    ) -> tuple[Samples, Samples]:
        """Support and query sets of tasks of a split (train or test); a generator for each."""

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets [tasks, samples, ...] -> [tasks]."""


class FewShotLearner:
    """Meta-learns the initial parameters of a module for a problem's tasks."""

    def __init__(self, config: FewShotConfig, problem: Problem):
        self.config = config
        self.problem = problem
        self.device = pick_device(config.device)
        self.name = f"{problem.name} on {self.device}"
        self.measure = problem.measure
        self.test_steps = config.test_steps
        self.eval_splits: tuple[str, ...] = ("test",)
        self.workers = Workers(config.threads)
        self.inner = InnerLoop(
            module_objective(problem.module, problem.loss),
            config.inner_lr,
            adapts=every_parameter if config.adapts == "all" else problem.head.__contains__,
            first_order=config.first_order or config.outer == "reptile",
        )
        outer = PolicyGradient if config.outer == "gradient" else Reptile
        self.outer = outer(config.outer_lr)
        problem.module.to(self.device)
        initial = initial_parameters(problem.module)
        own = {name: p for name, p in initial.items() if self.inner.adapts(name)}
        self.parameters: Parameters = {
            **initial,
            **initial_step_sizes(own, config.step_sizes, config.inner_lr),
        }
        self.iteration = 0

    def iterate(self) -> dict[str, float]:
        """One meta-update; its metrics, by the names of metrics.jsonl."""
        config, start = self.config, time.perf_counter()
        key = RandomKey(config.seed, Phase.TRAINING, self.iteration + 1)
        support, query = self._sample(config.meta_batch_size, key, "train")
        before, after = self._scores(support, query, config.inner_steps)[[0, -1]].mean(1).tolist()
        objective = FewShotObjective(
            self.inner, support, query, config.inner_steps, self.parameters, self.workers
        )
        self.parameters, update = self.outer.step(objective, self.parameters)
        self.iteration += 1
        return {
            "iteration": self.iteration,
            f"{self.measure}/before": before,
            f"{self.measure}/after": after,
            f"{self.measure}/gain": after - before,
            **update,
            **step_size_metrics(self.parameters),
            "time/whole": time.perf_counter() - start,
        }

    def learn(self, iterations: int) -> Iterator[dict[str, float]]:
        """Iterates until `iterations` meta-updates are done in all, yielding each one's metrics."""
        while self.iteration < iterations:
            yield self.iterate()

    def evaluate(self, tasks: int | None = None, split: str = "test") -> Evaluation:
        """Scores after 0..`test_steps` inner steps on held-out tasks, the same at every call."""
        key = RandomKey(self.config.seed, Phase.EVALUATION)
        support, query = self._sample(tasks or self.config.eval_tasks, key, split)
        scores = self._scores(support, query, self.config.test_steps).cpu().numpy()
        later = dataclasses.replace(key, iteration=self.iteration)
        return Evaluation(split, {}, scores, later.interval_seed, self.problem.groups)

    def fine_tune(
        self, rates: Sequence[float] = PLAIN_RATES, best: Callable[..., Any] = max
    ) -> tuple[Evaluation, float]:
        """Plain fine-tuning from the parameters as they are, before any meta-update.

        Returns:
            The evaluation with the step size that is `best` (max or min, as the measure wants) on
            training tasks after `test_steps`, and that step size.

        """

        def at(rate: float, split: str) -> Evaluation:
            plain = copy.copy(self)
            plain.inner = dataclasses.replace(self.inner, learning_rate=rate)
            plain.parameters = {
                name: p for name, p in self.parameters.items() if not name.startswith(STEP_SIZE)
            }
            return plain.evaluate(split=split)

        scores = {rate: at(rate, "train").returns[-1].mean() for rate in rates}
        finite = [rate for rate in rates if np.isfinite(scores[rate])]  # others diverged
        rate = best(finite, key=scores.__getitem__)
        return at(rate, "test"), rate

    def describe(self) -> dict[str, Any]:
        """What config.json holds of the problem."""
        return {"problem": self.problem.name}

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "parameters": {name: p.cpu() for name, p in self.parameters.items()},
            "iteration": self.iteration,
            "outer": self.outer.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self.parameters = {n: p.to(self.device) for n, p in state["parameters"].items()}
        self.iteration = state["iteration"]
        self.outer.load_state(state["outer"])

    def _sample(self, number: int, key: RandomKey, split: str) -> tuple[Samples, Samples]:
        sets = self.problem.sample(number, lambda task: key.generator(Use.TASK, task), split)
        support, query = (samples.to(self.device) for samples in sets)
        return support, query

    def _scores(self, support: Samples, query: Samples, steps: int) -> Tensor:
        outputs = query_outputs(
            self.inner, self.problem.module, self.parameters, support, query, steps
        )
        return torch.stack([self.problem.score(x, query.targets) for x in outputs])
