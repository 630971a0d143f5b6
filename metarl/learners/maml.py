"""The meta-learner of a task family: its meta-iteration, and what uses the policy it learns."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.evaluation.evaluation import Evaluation
from metarl.learners.config import Config
from metarl.maml.estimators import SURROGATES
from metarl.maml.inner_loop import (
    InnerLoop,
    adapt_by_sampling,
    every_parameter,
    initial_step_sizes,
    step_size_metrics,
)
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.outer.evolution import EvolutionStrategies, PerturbedReturns
from metarl.outer.registry import OUTER_LOOPS
from metarl.policies.mlp import CONTEXT, CategoricalPolicy, GaussianPolicy, make_policy
from metarl.policies.parameters import Parameters, expand
from metarl.sampling.advantage import make_batch
from metarl.sampling.baseline import BASELINES
from metarl.sampling.data import Batch, Rollout
from metarl.sampling.rollout import collect
from metarl.simulation.gymnasium import Processes, make_simulations
from metarl.support.clock import Clock
from metarl.support.errors import UsageError
from metarl.support.parallel import Workers, pick_device
from metarl.support.randomness import Phase, RandomKey, Use
from metarl.tasks.family import TaskFamily, make_family
from metarl.tasks.task import Task, Tasks, stack_tasks, validate_tasks


@dataclass(frozen=True)
class Adapted:
    """A policy adapted to one task."""

    parameters: Parameters  # without a task dimension
    episode_returns: np.ndarray  # [steps + 1, episodes]
    env_steps: int
    """Environment steps that the adaptation learned from."""

    @property
    def returns(self) -> list[float]:
        """Mean return after 0..K inner steps."""
        means: list[float] = self.episode_returns.mean(1).tolist()
        return means


class Learner:
    """Meta-learns a policy for a task family: θ, and what changes and uses it."""

    def __init__(self, config: Config, family: TaskFamily | None = None):
        """`family` replaces the one that the configuration names."""
        self.config = config
        self.family = family or make_family(config.family, config.horizon, **config.family_options)
        self.device = pick_device(config.device)
        self.sampling_device = pick_device(config.sampling_device)
        self.workers = Workers(config.threads)
        self._simulations: dict[int, list[gymnasium.vector.VectorEnv]] = {}
        self.policy = make_policy(
            self.family.prototype.observation_space,
            self.family.prototype.action_space,
            config.hidden_sizes,
            config.activation,
            config.context_size if config.adapts == "context" else 0,
            self._task_size() if config.observe_task else 0,
        )
        self.inner = make_inner_loop(config, self.policy, self.device)
        self.outer = OUTER_LOOPS[config.outer](config)
        initial = self.policy.initial_parameters(RandomKey(config.seed).generator(Use.PARAMETERS))
        initial |= initial_step_sizes(
            {n: p for n, p in {**initial, **self.inner.fresh}.items() if self.inner.adapts(n)},
            config.step_sizes,
            config.inner_lr,
        )
        self.parameters: Parameters = {n: p.to(self.device) for n, p in initial.items()}
        self.iteration = 0
        self.env_steps = 0
        self.name = f"{self.family.id} on {self.device}"
        self.measure = "return"
        self.test_steps = config.inner_steps
        self.eval_splits = config.eval_splits
        for split in config.eval_splits:
            self.family.check_split(split)

    def iterate(self) -> dict[str, float]:
        """One meta-iteration; its metrics, by the names of metrics.jsonl."""
        config, clock = self.config, Clock()
        key = RandomKey(config.seed, Phase.TRAINING, self.iteration + 1)
        rollouts: list[Rollout] = []

        tasks, begin, noise = self._begin(key)
        sample = partial(self._sample, tasks, key, rollouts, clock)
        with clock("adaptation"):
            adapted, batches = adapt_by_sampling(
                self.inner, begin, config.inner_steps, sample, self.workers
            )
        with clock("meta_update"):
            objective: Any
            if noise is None:
                objective = MetaObjective(
                    self.policy,
                    self.inner,
                    batches,
                    self.parameters,
                    adapted,
                    self.workers,
                    config.sampling_correction,
                    config.correction_over_steps,
                )
            else:
                objective = PerturbedReturns(noise, rollouts[-1].returns.mean(1))
            self.parameters, update = self.outer.step(objective, self.parameters)

        self.iteration += 1
        steps = sum(rollout.env_steps for rollout in rollouts)
        self.env_steps += steps
        returns = [float(rollout.returns.mean()) for rollout in rollouts]
        before, after = (rollouts[i].returns.mean(1) for i in (0, -1))
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "return/before": returns[0],
            "return/after": returns[-1],
            "return/gain": returns[-1] - returns[0],
            "return/hurt": float((after < before).double().mean()),
            **{f"return/step_{k}": value for k, value in enumerate(returns)},
            **_success_metrics(rollouts),
            **update,
            **self._policy_metrics(rollouts[0]),
            **step_size_metrics(self.parameters),
            "simulation/unstable": sum(rollout.unstable for rollout in rollouts),
            **{f"time/{name}": seconds for name, seconds in clock.seconds.items()},
            "time/whole": (whole := clock.total),
            "throughput/env_steps_per_second": steps / whole,
        }

    def learn(self, iterations: int) -> Iterator[dict[str, float]]:
        """Iterates until `iterations` meta-updates are done in all, yielding each one's metrics."""
        while self.iteration < iterations:
            yield self.iterate()

    def evaluate(
        self,
        tasks: int | None = None,
        steps: int | None = None,
        split: str = "test",
        adaptations: int = 1,
    ) -> Evaluation:
        """Returns after 0..`steps` inner steps on held-out tasks, the same ones at every call.

        Those of a task are means over so many `adaptations` to it, each from rollouts of its own.
        """
        number = tasks or self.config.eval_tasks
        steps = self.config.inner_steps if steps is None else steps
        fixed = RandomKey(self.config.seed, Phase.EVALUATION)
        key = dataclasses.replace(fixed, iteration=self.iteration)
        drawn = self.family.sample_tasks(number, fixed, split)
        rollouts: list[Rollout] = []
        repeated = {name: np.repeat(values, adaptations, 0) for name, values in drawn.items()}
        sample = partial(self._sample, repeated, key, rollouts, Clock())
        inner = dataclasses.replace(self.inner, later_factor=self.config.test_later_lr)
        begin = inner.begin(self.parameters, number * adaptations)

        def of_adaptations(values: Tensor) -> np.ndarray:
            """Means over episodes: [tasks, adaptations]."""
            means: np.ndarray = values.double().mean(1).reshape(number, adaptations).numpy()
            return means

        adapt_by_sampling(inner, begin, steps, sample, self.workers)
        each = np.stack([of_adaptations(rollout.returns) for rollout in rollouts])
        told = [of_adaptations(r.success).mean(1) for r in rollouts if r.success is not None]
        planar = self.family.planar
        taken = [0, *(r.env_steps / number / adaptations for r in rollouts[:-1])]
        return Evaluation(
            split,
            drawn,
            each.mean(-1),
            key.interval_seed,
            success=np.stack(told) if len(told) == len(rollouts) else None,
            episodes=self.config.episodes,
            env_steps=np.cumsum(taken),
            paths=[r.path()[::adaptations].numpy() for r in rollouts] if planar else None,
            adaptations=each if adaptations > 1 else None,
        )

    def on(self, family: TaskFamily) -> "Learner":
        """A learner of the same policy on another family of the same spaces.

        Raises:
            UsageError: the spaces differ.

        """
        own, other = self.family.prototype, family.prototype
        for name in ("observation_space", "action_space"):
            mine, given = getattr(own, name), getattr(other, name)
            if (type(mine), mine.shape) != (type(given), given.shape):
                raise UsageError(f"{family.id} has {name} {given}; the policy is for {mine}")
        learner = Learner(self.config, family)
        learner.load_state(self.state())
        return learner

    def adapt(self, task: Task, steps: int | None = None, seed: int | None = None) -> Adapted:
        """The policy adapted to one task by `steps` inner steps, and its returns on the way.

        `seed` names the random numbers, that of the run if it is not given.

        Raises:
            UsageError: a task outside the family's space.

        """
        checked = validate_tasks(self.family.task_space, task, None)
        seed = self.config.seed if seed is None else seed
        key = RandomKey(seed, Phase.ADAPTATION, self.iteration)
        rollouts: list[Rollout] = []
        sample = partial(self._sample, stack_tasks([checked]), key, rollouts, Clock())
        number = self.config.inner_steps if steps is None else steps
        inner = dataclasses.replace(self.inner, later_factor=self.config.test_later_lr)
        adapted, _ = adapt_by_sampling(
            inner, inner.begin(self.parameters, 1), number, sample, self.workers
        )
        returns = np.stack([rollout.returns[0].numpy() for rollout in rollouts])
        learned_from = sum(rollout.env_steps for rollout in rollouts[:-1])
        return Adapted({name: p[0] for name, p in adapted.items()}, returns, learned_from)

    def describe(self) -> dict[str, Any]:
        """What config.json holds of the family, its variant and the device."""
        return {
            "config": {"horizon": self.family.horizon},
            "family": self.family.describe(),
            "device": self.workers.describe(self.device),
        }

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "parameters": {name: p.cpu() for name, p in self.parameters.items()},
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "outer": self.outer.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self.parameters = {n: p.to(self.device) for n, p in state["parameters"].items()}
        self.iteration, self.env_steps = state["iteration"], state["env_steps"]
        self.outer.load_state(state["outer"])

    def _begin(self, key: RandomKey) -> tuple[Tasks, Parameters, Parameters | None]:
        """An iteration's tasks, the parameters [tasks, ...] that each begins with, and the noise
        in these, if the outer loop learns from perturbations.
        """
        number = self.config.meta_batch_size
        if not isinstance(self.outer, EvolutionStrategies):
            tasks = self.family.sample_tasks(number, key, "train")
            return tasks, self.inner.begin(self.parameters, number), None
        # Both signs of a perturbation meet the same task.
        tasks = self.family.sample_tasks(number // 2, key, "train")
        generator = key.generator(Use.PERTURBATION)
        noise, perturbed = self.outer.perturb(self.parameters, number // 2, generator)
        twice = {name: np.concatenate([values, values]) for name, values in tasks.items()}
        return twice, perturbed | expand(self.inner.fresh, number), noise

    def _sample(
        self,
        tasks: Tasks,
        key: RandomKey,
        rollouts: list[Rollout],
        clock: Clock,
        parameters: Parameters,
        stage: int,
    ) -> Batch:
        """Rollouts of `tasks` under `parameters`, kept in `rollouts`; the batch to learn from."""
        number = len(next(iter(tasks.values())))
        parameters = {name: p.to(self.sampling_device) for name, p in parameters.items()}
        with clock("sampling"):
            rollout = collect(
                self._simulations_of(number),
                self.policy,
                parameters,
                tasks,
                self.config.episodes,
                self.family.horizon,
                key,
                stage,
                self.workers,
                self.config.observe_task,
            )
        rollouts.append(rollout)
        config = self.config
        return make_batch(
            rollout.to(self.device),
            config.discount,
            config.gae_lambda,
            self.workers,
            BASELINES[config.baseline],
        )

    def _task_size(self) -> int:
        """Numbers of a task."""
        return sum(math.prod(space.shape or ()) for space in self.family.task_space.values())

    def _simulations_of(self, tasks: int) -> list[gymnasium.vector.VectorEnv]:
        if tasks not in self._simulations:
            self._simulations[tasks] = make_simulations(
                self.family,
                tasks,
                self.config.episodes,
                self.workers.threads,
                Processes(self.config.workers, self.config.worker_timeout),
            )
        return self._simulations[tasks]

    def _policy_metrics(self, rollout: Rollout) -> dict[str, float]:
        """Entropy of the actions of `rollout`, estimated by −log π, and mean σ if it has one."""
        entropy = {"policy/entropy": -float(rollout.log_probs.sum() / rollout.env_steps)}
        log_std = self.parameters.get("log_std")
        if log_std is None:
            return entropy
        return entropy | {"policy/std": float(log_std.exp().mean())}


def _success_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Shares of episodes that succeeded before and after adaptation, where the family tells it."""
    rates = [float(r.success.float().mean()) for r in rollouts if r.success is not None]
    return {"success/before": rates[0], "success/after": rates[-1]} if rates else {}


def make_inner_loop(
    config: Config, policy: GaussianPolicy | CategoricalPolicy, device: torch.device
) -> InnerLoop:
    """The inner loop of the options."""
    first_order = config.estimator == "first_order"
    surrogate = SURROGATES["lvc" if first_order else config.estimator]
    adapts: Callable[[str], bool] = {
        "all": every_parameter,
        "head": policy.head.__contains__,
        "context": CONTEXT.__eq__,
    }[config.adapts]
    fresh = {CONTEXT: torch.zeros(policy.context_size, device=device)}
    return InnerLoop(
        policy_objective(policy, surrogate),
        config.inner_lr,
        adapts=adapts,
        fresh=fresh if config.adapts == "context" else {},
        first_order=first_order,
    )
