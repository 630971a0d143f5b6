"""MAML and the algorithms that share its parts: a policy that adapts by inner gradient steps."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from metarl.evaluation.outcomes import return_metrics
from metarl.learners.learner import MetaLearner
from metarl.learners.maml_config import MAMLConfig
from metarl.maml.estimators import ESTIMATORS, FIRST_ORDER, SEPARABLE
from metarl.maml.inner_loop import (
    INNER_UPDATES,
    InnerLoop,
    adapt,
    every_parameter,
    initial_step_sizes,
    step_size_metrics,
)
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.outer.loop import improved, started
from metarl.outer.registry import OUTER_LOOPS
from metarl.policies.deployed import deployed
from metarl.policies.export import DeployedPolicy
from metarl.policies.normalisation import Statistics, sums_of
from metarl.policies.parameters import Parameters, expand
from metarl.policies.policy import Policy, PolicyOptions, make_policy
from metarl.sampling.actor import Adaptive, PolicyActor
from metarl.sampling.advantage import make_scaled_batch
from metarl.sampling.baseline import BASELINES
from metarl.sampling.data import Batch, Outcomes, Rollout
from metarl.sampling.task_choice import TaskSampler
from metarl.support.clock import Clock
from metarl.support.errors import NonFiniteError, UsageError
from metarl.support.finite import expect_finite, expect_finite_state
from metarl.support.parallel import Shard, Workers, pick_device
from metarl.support.randomness import Phase, RandomKey, Use
from metarl.support.types import State
from metarl.tasks.family import TaskFamily
from metarl.tasks.task import Tasks, count_tasks, select_tasks


@dataclass(frozen=True)
class GradientAdaptation:
    """A policy with parameters for each task, which the inner loop moves: an `Adaptive`."""

    policy: Policy
    inner: InnerLoop
    parameters: Parameters  # [tasks, ...]
    make_batch: Callable[[Rollout], Batch]
    workers: Workers
    sampling_device: torch.device
    hints: Tensor | None = None  # [tasks, n]: what an oracle sees of its task
    step: int = 0
    """Inner steps taken."""

    def actor(self) -> PolicyActor:
        """The policy under these parameters, where rollouts are collected."""
        parameters = {name: p.to(self.sampling_device) for name, p in self.parameters.items()}
        return PolicyActor(self.policy, parameters, self.hints)

    def learn(self, rollout: Rollout) -> "GradientAdaptation":
        """After one inner step on the rollout."""
        return self.learn_from(self.make_batch(rollout), rollout.shard)

    def learn_from(self, batch: Batch, shard: Shard | None) -> "GradientAdaptation":
        """After one inner step on the batch of this shard of the tasks."""
        parameters = adapt(self.inner, self.parameters, batch, self.step, self.workers, shard)
        return dataclasses.replace(self, parameters=parameters, step=self.step + 1)


class MAMLLearner(MetaLearner):
    """Meta-learns a policy for a task family: θ, and what changes and uses it."""

    Config: ClassVar[type[MAMLConfig]] = MAMLConfig
    drops_tasks = True
    config: MAMLConfig
    remedy = "a smaller --inner-lr, --outer-lr or --max-kl"

    def __init__(self, config: MAMLConfig, family: TaskFamily | None = None):
        """`family` replaces the one that the configuration names."""
        super().__init__(config, family)
        self.sampling_device = pick_device(config.sampling_device)
        if self.simulations.device.type != "cpu":  # nothing is sent from one to the other
            self.sampling_device = self.simulations.device
        self.policy = make_policy(
            self.observation_space,
            self.action_space,
            PolicyOptions(
                config.policy,
                config.policy_options,
                config.hidden_sizes,
                config.activation,
                config.context_size if config.adapts == "context" else 0,
                self._task_size() if config.observe_task else 0,
                config.normalise_observations,
                config.inner_steps > 0 or OUTER_LOOPS.find(config.outer).differentiates,
            ),
        )
        self.inner = make_inner_loop(config, self.policy, self.device)
        self.outer = OUTER_LOOPS.find(config.outer)(config)
        self.task_sampler = TaskSampler(self.family, config)
        self.advantages = Statistics(1)
        """By which rewards are scaled with --normalise-rewards."""
        initial = self.policy.initial_parameters(RandomKey(config.seed).generator(Use.PARAMETERS))
        initial |= initial_step_sizes(
            {n: p for n, p in {**initial, **self.inner.fresh}.items() if self.inner.adapts(n)},
            config.step_sizes,
            config.inner_lr,
        )
        self.parameters: Parameters = {n: p.to(self.device) for n, p in initial.items()}
        self.test_steps = config.inner_steps
        self.adapts = not config.observe_task
        self.normalises = config.normalise_observations

    @property
    def episodes(self) -> int:
        """Episodes of each task before adaptation, and again after each inner step."""
        return self.config.episodes

    def iterate(self) -> dict[str, float]:
        """One meta-iteration; its metrics, by the names of metrics.jsonl."""
        clock = Clock()
        key = RandomKey(self.config.seed, Phase.TRAINING, self.iteration + 1)
        shard = self.shard(self.config.meta_batch_size)
        tasks, begin = self._begin(key, shard)
        last = self.config.inner_steps
        with clock("adaptation"):
            adapted, rollouts, batches, spreads = self._adapt_in_training(
                tasks, begin, key, shard, clock
            )
            every = self.outcomes(rollouts)
            outcomes = [outcome.without(self.dropped) for outcome in every]
            after = self._filled(outcomes[-1].returns.mean(1))
        with clock("meta_update"):
            objective = MetaObjective(
                self.policy,
                self.inner,
                batches,
                self.parameters,
                adapted,
                self.workers,
                self.config.sampling_correction,
                self.config.correction_over_steps,
                after.nan_to_num(float(after.nanmean())),
                shard,
                self.dropped,
                spreads[-1] if self._common_scale is None else None,
            )
            with self.located(tasks, key, last, shard):
                updated, update = improved(self.outer, objective, self.parameters)
                expect_finite("θ after the meta-update", updated)
                expect_finite_state(update)
            if objective.agreement is not None:
                update["outer/agreement"] = objective.agreement
        self.parameters = updated
        for rollout, deviations in zip(rollouts, spreads, strict=True):
            self._add_observations(rollout, shard)
            self._add_advantages(rollout, deviations, shard)

        self.iteration += 1
        steps = sum(outcome.env_steps for outcome in every)
        self.env_steps += steps
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            **return_metrics(outcomes, self.info_metrics),
            **self.task_sampler.learn(after),
            **update,
            **self._policy_metrics(outcomes[0]),
            **step_size_metrics(self.parameters),
            **clock.metrics(),
            "throughput/env_steps_per_second": steps / clock.total,
        }

    def begin(self, tasks: Tasks, testing: bool = False) -> GradientAdaptation:
        """θ for every task; an evaluation's later steps have the size of --test-later-lr."""
        inner = self.inner
        if testing:
            inner = dataclasses.replace(inner, later_factor=self.config.test_later_lr)
        begin = inner.begin(self.parameters, count_tasks(tasks))
        return self._adaptation_from(begin, tasks, inner)

    def deploy(self, adaptive: Adaptive) -> tuple[DeployedPolicy, Parameters]:
        """The policy under the parameters of its only task."""
        assert isinstance(adaptive, GradientAdaptation)
        parameters = {name: p[0].cpu() for name, p in adaptive.parameters.items()}
        task = None if adaptive.hints is None else adaptive.hints[0].cpu()
        interface = dataclasses.replace(self.interface(self.policy.actions), task=task)
        return deployed(self.policy, parameters, interface), parameters

    def state(self) -> State:
        """All that a resumed run needs."""
        normaliser = self.policy.normaliser
        return {
            "parameters": {name: p.cpu() for name, p in self.parameters.items()},
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "outer": self.outer.state(),
            "buffers": {n: b.clone() for n, b in self.policy.network.buffers().items()},
            "observations": {} if normaliser is None else normaliser.state(),
            "tasks": self.task_sampler.state(),
            "advantages": {n: x.clone() for n, x in self.advantages.state_dict().items()},
        }

    def load_state(self, state: State) -> None:
        """Continues from `state()`."""
        self.parameters = {n: p.to(self.device) for n, p in state["parameters"].items()}
        self.iteration, self.env_steps = state["iteration"], state["env_steps"]
        self.outer.load_state(state["outer"])
        if self.policy.normaliser is not None:
            self.policy.normaliser.load_state(state["observations"])
        # A checkpoint of an earlier version lacks the following.
        self.policy.network.load_buffers(state.get("buffers", {}))
        self.task_sampler.load_state(state.get("tasks", {}))
        self.advantages.load_state_dict(state.get("advantages", Statistics(1).state_dict()))

    def initialise(self, other: Self) -> None:
        """Begins with the parameters of another learner, and with what it normalises by."""
        shapes = [{n: tuple(p.shape) for n, p in x.parameters.items()} for x in (self, other)]
        normalisers = self.policy.normaliser, other.policy.normaliser
        if shapes[0] != shapes[1]:
            raise ValueError(f"its policy has {shapes[1]}, not {shapes[0]}")
        if (normalisers[0] is None) != (normalisers[1] is None):
            raise ValueError("only one of the two has --normalise-observations")
        self.advantages.load_state_dict(other.advantages.state_dict())
        self.parameters = {n: p.to(self.device) for n, p in other.parameters.items()}
        self.policy.network.load_buffers(other.policy.network.buffers())
        if self.policy.normaliser is not None and other.policy.normaliser is not None:
            self.policy.normaliser.load_state(other.policy.normaliser.state())

    def _begin(self, key: RandomKey, shard: Shard) -> tuple[Tasks, Parameters]:
        """The tasks of this process, and the parameters [tasks, ...] that each begins with."""
        number = self.config.meta_batch_size
        start = started(self.outer, self.parameters, number, key)
        different = number // start.repeats
        if len(self.dropped) == number:
            raise NonFiniteError("no task has finite numbers")
        drawn = self.task_sampler.draw(different, key)
        # What is left out of one set is left out of all, which an outer loop compares.
        self.dropped = frozenset(
            i for task in self.dropped for i in range(task % different, number, different)
        )
        tasks = {name: np.concatenate([x] * start.repeats) for name, x in drawn.items()}
        begin = start.parameters | expand(self.inner.fresh, number)
        return select_tasks(tasks, shard.tasks), {n: p[shard.tasks] for n, p in begin.items()}

    def _adapt_in_training(
        self, tasks: Tasks, begin: Parameters, key: RandomKey, shard: Shard, clock: Clock
    ) -> tuple[Parameters, list[Rollout], list[Batch], list[Tensor]]:
        """θ' [tasks, ...]; rollouts, batches and deviations of the advantages of stages 0 to K."""
        adaptive = self._adaptation_from(begin, tasks, self.inner)
        rollouts: list[Rollout] = []
        batches: list[Batch] = []
        spreads: list[Tensor] = []
        for stage in range(self.config.inner_steps + 1):
            if stage:
                with self.located(tasks, key, stage - 1, shard):
                    adaptive = adaptive.learn_from(batches[-1], shard)
            with clock("sampling"):
                rollouts.append(self.sample(adaptive, tasks, key, stage, shard))
            with self.located(tasks, key, stage, shard):
                batch, deviations = self._make_scaled_batch(rollouts[-1])
            batches.append(batch.without(self._own_dropped(shard)))
            spreads.append(deviations)
        return adaptive.parameters, rollouts, batches, spreads

    def _adaptation_from(
        self, parameters: Parameters, tasks: Tasks, inner: InnerLoop
    ) -> GradientAdaptation:
        return GradientAdaptation(
            self.policy,
            inner,
            parameters,
            self._make_batch,
            self.workers,
            self.sampling_device,
            self._hints(tasks) if self.config.observe_task else None,
        )

    def _make_batch(self, rollout: Rollout) -> Batch:
        return self._make_scaled_batch(rollout)[0]

    def _make_scaled_batch(self, rollout: Rollout) -> tuple[Batch, Tensor]:
        """The batch, and the deviations of its advantages before they were scaled: [tasks]."""
        return make_scaled_batch(
            rollout.to(self.device),
            self.config.discount,
            self.config.gae_lambda,
            self.workers,
            BASELINES.find(self.config.baseline),
            self._common_scale,
        )

    @property
    def _common_scale(self) -> float | None:
        """What the rewards of all tasks are divided by, with --normalise-rewards."""
        known = self.config.normalise_rewards and self.advantages.count > 0
        return float(self.advantages.moments[1]) if known else None

    def _add_observations(self, rollout: Rollout, shard: Shard) -> None:
        """Adds the observations of all processes to what they are normalised by."""
        seen = self._learned_from(rollout, shard)

        def of_tasks(tasks: slice) -> tuple[Tensor, ...]:
            return sums_of(rollout.observations[tasks][seen[tasks]])

        if self.policy.normaliser is not None:
            self.policy.normaliser.add_sums(*self.workers.sum(of_tasks, shard.slices, shard))

    def _add_advantages(self, rollout: Rollout, deviations: Tensor, shard: Shard) -> None:
        """Adds the advantages of all processes, whose mean is 0 for each task, to what rewards are
        divided by.
        """
        deviations = deviations.to(rollout.valid.device)
        seen = self._learned_from(rollout, shard)

        def of_tasks(tasks: slice) -> tuple[Tensor, ...]:
            steps = seen[tasks].sum((1, 2)).double()
            squares = (steps * deviations[tasks].square()).sum()
            return steps.sum(), torch.stack([torch.zeros_like(squares), squares]).reshape(2, 1)

        if self.config.normalise_rewards:
            self.advantages.add_sums(*self.workers.sum(of_tasks, shard.slices, shard))

    def _learned_from(self, rollout: Rollout, shard: Shard) -> Tensor:
        """Which steps are of tasks that are not left out: [tasks, episodes, time] bool."""
        seen = rollout.valid.clone()
        seen[self._own_dropped(shard)] = False
        return seen

    def _task_size(self) -> int:
        """Numbers of a task."""
        return sum(math.prod(space.shape or ()) for space in self.family.task_space.values())

    def _hints(self, tasks: Tasks) -> Tensor:
        """All parameters of each task: [tasks, n]."""
        parts = [np.reshape(values, (len(values), -1)) for values in tasks.values()]
        hints = torch.from_numpy(np.concatenate(parts, 1).astype(np.float32))
        return hints.to(self.sampling_device)

    def _policy_metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """Entropy of the actions taken, estimated by −log π, and mean σ if there is one."""
        entropy = {"policy/entropy": -float(outcomes.log_probs.sum() / outcomes.env_steps)}
        log_std = self.parameters.get("log_std")
        if log_std is None:
            return entropy
        return entropy | {"policy/std": float(log_std.exp().mean())}


def make_inner_loop(config: MAMLConfig, policy: Policy, device: torch.device) -> InnerLoop:
    """The inner loop of the options."""
    fresh = {name: p.to(device) for name, p in policy.network.fresh.items()}
    adapts: Callable[[str], bool] = {
        "all": every_parameter,
        "head": policy.head.__contains__,
        "context": fresh.__contains__,
    }[config.adapts]
    if config.adapts == "head" and not policy.network.head:
        raise UsageError(
            f"--adapts head: --policy {config.policy} names no head; give the class "
            '`head = ("name of a parameter", ...)`'
        )
    estimator = ESTIMATORS.find(config.estimator)
    return InnerLoop(
        policy_objective(policy, estimator),
        config.inner_lr,
        adapts=adapts,
        fresh=fresh,
        first_order=config.estimator == FIRST_ORDER,
        update=INNER_UPDATES.find(config.inner_update),
        separable=estimator in SEPARABLE,
    )
