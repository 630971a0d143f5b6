"""A meta-learner for supervised few-shot tasks; a run trains it like any other learner."""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metarl.evaluation.evaluation import Evaluation
from metarl.learners.adapted import AdaptedModule
from metarl.learners.base import BaseLearner
from metarl.learners.config import FamilyOption, RunConfig, expect_config
from metarl.learners.iteration import located
from metarl.learners.problem import (
    Problem,
    expect_problem,
    make_problem,
    samples_of,
    scores_of,
    tensor_of,
)
from metarl.maml.inner_loop import (
    InnerLoop,
    every_parameter,
    initial_step_sizes,
    step_size_metrics,
    without_step_sizes,
)
from metarl.maml.supervised import (
    FewShotObjective,
    expect_fit,
    module_objective,
    query_outputs,
)
from metarl.outer.loop import StepSizeOptions
from metarl.outer.policy_gradient import PolicyGradient
from metarl.outer.reptile import Reptile
from metarl.policies.deployed import DeployedModule
from metarl.policies.module_network import initial_parameters, replace_buffers
from metarl.policies.parameters import Parameters
from metarl.support.errors import NonFiniteError, UsageError
from metarl.support.finite import expect_finite, expect_finite_state, not_finite
from metarl.support.options import Count, Positive, WholeNumber, at_least
from metarl.support.parallel import Shard, pick_device
from metarl.support.randomness import Phase, RandomKey, Use
from metarl.support.ranks import make_workers
from metarl.support.types import Json, State
from metarl.tasks.samples import Samples

PLAIN_RATES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Step sizes that plain fine-tuning chooses from."""


@dataclass(frozen=True, kw_only=True)
class FewShotConfig(StepSizeOptions, RunConfig):
    """A meta-training run on supervised tasks."""

    learner: Literal["few_shot"] = "few_shot"
    iterations: Count = 1000
    """Meta-updates."""
    problem: str | None = None
    """What is learned: MODULE:NAME of a class or a function that makes the problem, so that the run
    can be loaded again; in Python, `FewShotLearner` also takes the problem itself."""
    problem_options: dict[str, FamilyOption] = field(default_factory=dict)
    """Arguments of that class or function, name and value in turn: `shots 5`."""
    run_dir: Path | None = Path("runs/few_shot")
    """The run folder itself."""
    meta_batch_size: Count = 25
    """Tasks of a meta-update."""
    inner_lr: Positive = 0.01
    """Step size of the inner loop."""
    inner_steps: Count = 1
    """Inner steps of training, all on the support set."""
    test_steps: Count = 10
    """Inner steps of an evaluation."""
    adapts: Literal["all", "head"] = "all"
    """What the inner loop changes: all parameters, or those that the problem calls its head."""
    step_sizes: Literal["fixed", "per_layer", "per_parameter"] = "fixed"
    """Whether the inner step size is a number, or learned (per_parameter: Meta-SGD)."""
    first_order: bool = False
    """Leave out the second derivatives."""
    outer: Literal["gradient", "reptile"] = "gradient"
    """Adam along the meta-gradient, or Reptile."""
    outer_lr: Positive = 1e-3
    """Step size of Adam, or ε of reptile."""
    eval_every: WholeNumber = 100
    """Iterations between evaluations on held-out tasks; 0 never evaluates."""
    eval_tasks: Count = 200
    """Held-out tasks of an evaluation."""
    checkpoint_every: Count = 100
    """Iterations between checkpoints; the last iteration always has one."""

    def on(self, problem: str | None = None, **options: FamilyOption) -> "FewShotConfig":
        """The options of this class alone, without those that a script adds, on a problem."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(FewShotConfig)}
        return FewShotConfig(**own | {"problem": problem, "problem_options": options})

    def __post_init__(self) -> None:
        """Checks every number, and that the parts fit."""
        super().__post_init__()
        if self.outer == "reptile" and (self.step_sizes != "fixed" or self.adapts != "all"):
            raise UsageError(
                "--outer reptile moves only what the inner loop changes: --step-sizes must be "
                "fixed and --adapts all"
            )


class FewShotLearner(BaseLearner):
    """Meta-learns the initial parameters of a module for a problem's tasks."""

    Config: ClassVar[type[FewShotConfig]] = FewShotConfig
    drops_tasks = True
    config: FewShotConfig
    remedy = "a smaller --inner-lr or --outer-lr"

    def __init__(self, config: FewShotConfig, problem: Problem | None = None):
        """`problem` is learned in place of the one that the configuration names.

        Raises:
            UsageError: there is neither, or it lacks something that a problem has.

        """
        expect_config(config, type(self), type(self).Config)
        if problem is None:
            if config.problem is None:
                raise UsageError(
                    "a few-shot run needs its problem: --problem MODULE:NAME, or problem=... in "
                    "Python"
                )
            problem = make_problem(config.problem, config.problem_options, config.seed)
        expect_problem(problem)
        self.config = config
        self.problem = problem
        self.device = pick_device(config.device)
        self.name = f"{problem.name} on {self.device}"
        self.measure = problem.measure
        self.test_steps = config.test_steps
        self.higher_is_better = getattr(problem, "higher_is_better", True)
        self.workers = make_workers(config.threads, config.rank_timeout, config.task_chunk)
        self.inner = InnerLoop(
            module_objective(problem.module, problem.loss),
            config.inner_lr,
            adapts=every_parameter if config.adapts == "all" else problem.head.__contains__,
            first_order=config.first_order or config.outer == "reptile",
        )
        outer = PolicyGradient if config.outer == "gradient" else Reptile
        self.outer = outer(config)
        self._fits = False  # the module and the samples are looked at once
        problem.module.to(self.device)
        initial = initial_parameters(problem.module)
        own = {name: p for name, p in initial.items() if self.inner.adapts(name)}
        self.parameters: Parameters = {
            **initial,
            **initial_step_sizes(own, config.step_sizes, config.inner_lr),
        }

    def iterate(self) -> dict[str, float]:
        """One meta-update; its metrics, by the names of metrics.jsonl."""
        config, start = self.config, time.perf_counter()
        key = RandomKey(config.seed, Phase.TRAINING, self.iteration + 1)
        support, query, shard = self._sample(config.meta_batch_size, key, "train")
        with self._located(key):
            scores = self._scores(support, query, shard, config.inner_steps)
        before, after = scores[[0, -1]].mean(1).tolist()
        objective = FewShotObjective(
            self.inner, support, query, config.inner_steps, self.parameters, self.workers, shard
        )
        with self._located(key):
            updated, update = self.outer.step(objective, self.parameters)
            expect_finite("θ after the meta-update", updated)
            expect_finite_state(update)
        self.parameters = updated
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

    def evaluate(
        self,
        tasks: int | None = None,
        steps: int | None = None,
        split: str = "test",
        adaptations: int | None = None,
    ) -> Evaluation:
        """Scores after 0..`steps` inner steps on held-out tasks, the same at every call.

        One adaptation to a support set is like any other, so `adaptations` has no meaning here.

        Raises:
            NonFiniteError: what the adapted module gives for a task is infinite or NaN.

        """
        return self._evaluation(tasks, steps, split, expects_finite=True)

    def _evaluation(
        self, tasks: int | None, steps: int | None, split: str, expects_finite: bool
    ) -> Evaluation:
        key = RandomKey(self.config.seed, Phase.EVALUATION)
        number = self.config.eval_tasks if tasks is None else tasks
        steps = self.config.test_steps if steps is None else steps
        at_least("tasks", number, 1)
        at_least("steps", steps, 0)
        support, query, shard = self._sample(number, key, split)
        with self._located(key):
            scores = self._scores(support, query, shard, steps, expects_finite).numpy()
        later = dataclasses.replace(key, iteration=self.iteration)
        return Evaluation(
            split,
            {},
            scores,
            later.interval_seed,
            self.problem.groups,
            measure=self.measure,
            higher_is_better=self.higher_is_better,
            held_out=split != "train",
        )

    def fine_tune(
        self, rates: Sequence[float] = PLAIN_RATES, best: Callable[..., Any] = max
    ) -> tuple[Evaluation, float]:
        """Plain fine-tuning from the parameters as they are, before any meta-update.

        Returns:
            The evaluation with the step size that is `best` (max or min, as the measure wants) on
            training tasks after `test_steps`, and that step size.

        Raises:
            NonFiniteError: some task diverges with each of the step sizes.

        """

        def at(rate: float, split: str) -> Evaluation:
            plain = copy.copy(self)
            plain.inner = dataclasses.replace(self.inner, learning_rate=rate)
            plain.parameters = without_step_sizes(self.parameters)
            # A step size that lets some tasks diverge is not chosen.
            return plain._evaluation(None, None, split, expects_finite=False)

        scores = {rate: at(rate, "train").returns[-1].mean() for rate in rates}
        finite = [rate for rate in rates if np.isfinite(scores[rate])]  # others diverged
        if not finite:
            raise NonFiniteError(f"fine-tuning diverges, with {min(rates):g} as the step size too")
        rate = best(finite, key=scores.__getitem__)
        return at(rate, "test"), rate

    def adapt(
        self, inputs: npt.ArrayLike, targets: npt.ArrayLike, steps: int | None = None
    ) -> AdaptedModule:
        """The module adapted by `steps` inner steps to a support set of one task.

        Args:
            inputs: [samples, ...].
            targets: [samples, ...]; the numbers 0 to N − 1 of N classes.
            steps: as many as in an evaluation, if not given.

        Raises:
            UsageError: they are no numbers, or the module or its loss does not take them.

        """
        module = self.problem.module
        dtype = next(module.parameters()).dtype
        whose = self.problem.name
        x = tensor_of(inputs, dtype, f"{whose}: inputs must be numbers")
        wanted = f"{whose}: targets must be numbers (of N classes: 0 to N − 1)"
        y = tensor_of(targets, dtype, wanted)
        adapted = copy.deepcopy(module).cpu()
        samples = Samples(x.unsqueeze(0), y.unsqueeze(0))
        expect_fit(adapted, self.problem.loss, samples, whose)
        support = samples.to(self.device)
        number = self.config.test_steps if steps is None else steps
        at_least("steps", number, 0)
        path = self.inner.path(self.inner.begin(self.parameters, 1), [support] * number)
        losses = [-float(self.inner.objective(parameters, support)) for parameters in path]
        for name, parameter in adapted.named_parameters():
            parameter.data = path[-1][name][0].detach().cpu()
        return AdaptedModule(DeployedModule(adapted, x.shape[1:], dtype), losses, whose)

    def describe(self) -> Json:
        """What config.json holds of the problem."""
        return {"problem": self.problem.name}

    def state(self) -> State:
        """All that a resumed run needs."""
        return {
            "parameters": {name: p.cpu() for name, p in self.parameters.items()},
            "iteration": self.iteration,
            "outer": self.outer.state(),
            "buffers": {n: b.cpu().clone() for n, b in self.problem.module.named_buffers()},
        }

    def load_state(self, state: State) -> None:
        """Continues from `state()`."""
        self.parameters = {n: p.to(self.device) for n, p in state["parameters"].items()}
        self.iteration = state["iteration"]
        self.outer.load_state(state["outer"])
        # A checkpoint of an earlier version lacks them.
        replace_buffers(self.problem.module, state.get("buffers", {}))

    def expect_shares(self, tasks: int) -> None:
        """Checks that each process has a part of an evaluation of so many tasks."""
        # Only the samples tell how large a group of tasks may be.
        self._sample(tasks, RandomKey(self.config.seed, Phase.EVALUATION), "test")

    def _sample(self, number: int, key: RandomKey, split: str) -> tuple[Samples, Samples, Shard]:
        """Support and query sets of the tasks of this process, and which of all these are."""
        # An evaluation of training tasks has a stream of its own: a problem may ignore the split.
        stream = int(key.phase is Phase.EVALUATION and split != "test")

        def generator(task: int) -> np.random.Generator:
            return key.generator(Use.TASK, task, stream)

        sets = samples_of(self.problem, number, generator, split)
        if not self._fits:
            module = copy.deepcopy(self.problem.module).cpu()
            for samples in sets:
                expect_fit(module, self.problem.loss, samples, self.problem.name)
            self._fits = True
        if self.dropped and key.phase is Phase.TRAINING:
            kept = self._kept(number)
            if not kept:
                raise NonFiniteError("no task has finite numbers")
            support, query = (Samples(x.inputs[kept], x.targets[kept]) for x in sets)
            sets = support, query
        shard = self.workers.shard(sets[1].tasks, sets[1].rows, self.device)
        support, query = (samples[shard.tasks].to(self.device) for samples in sets)
        return support, query, shard

    def _kept(self, number: int) -> list[int]:
        """The tasks among so many that the iteration does not leave out."""
        return [i for i in range(number) if i not in self.dropped]

    def _located(self, key: RandomKey) -> contextlib.AbstractContextManager[None]:
        """Says of an error in the block where it arose; the processes compute the same sums."""
        training = key.phase is Phase.TRAINING
        where = [self.problem.name, f"seed {key.seed}", key.phase.name.lower()]
        where.append(f"iteration {self.iteration + training}")

        def named(task: int) -> tuple[int, str]:
            return self._kept(task + len(self.dropped) + 1)[task] if training else task, ""

        return located(where, self.remedy, named)

    def _scores(
        self,
        support: Samples,
        query: Samples,
        shard: Shard,
        steps: int,
        expects_finite: bool = True,
    ) -> Tensor:
        """Scores of all processes' tasks after 0..`steps` inner steps: [steps + 1, tasks].

        Raises:
            NonFiniteError: an output is infinite or NaN, where none is expected to be.

        """

        def of_tasks(tasks: slice) -> tuple[Tensor, Tensor]:
            own = support[tasks], query[tasks]
            outputs = query_outputs(self.inner, self.problem.module, self.parameters, *own, steps)
            scores = torch.stack([scores_of(self.problem, x, own[1].targets) for x in outputs])
            return scores, not_finite(*outputs, scores.T)

        parts = self.workers.map(of_tasks, shard.slices, shard=shard)
        own = [torch.cat(part, -1).cpu() for part in zip(*parts, strict=True)]
        peers = self.workers.ranks.exchange(own)
        scores, diverged = (torch.cat(every, -1) for every in zip(*peers, strict=True))
        if expects_finite and diverged.any():
            bad = diverged.nonzero().flatten().tolist()
            raise NonFiniteError("an output of the adapted module is not finite", bad)
        return scores.masked_fill(diverged, torch.nan)  # an accuracy would be finite
