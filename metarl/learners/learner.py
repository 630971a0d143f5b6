"""What a learner is on a task family."""

import contextlib
import dataclasses
import logging
from abc import abstractmethod
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from metarl.evaluation.clips import Clip, labelled, record_clip, side_by_side
from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.outcomes import measured
from metarl.learners.adapted import Adapted, actor_of, expect_deployed
from metarl.learners.base import BaseLearner
from metarl.learners.config import FamilyRunConfig, expect_config
from metarl.learners.iteration import located
from metarl.learners.simulations import Simulations
from metarl.policies.action_units import ActionUnits
from metarl.policies.actions import Actions, make_actions
from metarl.policies.deployed import Interface
from metarl.policies.export import DeployedPolicy
from metarl.policies.observations import Observations, same_form
from metarl.policies.parameters import Parameters
from metarl.sampling.actor import Adaptive, MostLikely
from metarl.sampling.data import Outcomes, Rollout, concatenated
from metarl.sampling.finite import expect_finite_rollout
from metarl.sampling.rollout import collect
from metarl.support.errors import UsageError, expect_instance
from metarl.support.options import at_least
from metarl.support.parallel import Shard, pick_device
from metarl.support.randomness import Phase, RandomKey
from metarl.support.ranks import make_workers
from metarl.support.text import counted
from metarl.support.types import Json, Space
from metarl.tasks.family import TaskFamily, make_family
from metarl.tasks.running import running_statistics
from metarl.tasks.scales import action_warnings, observation_warnings
from metarl.tasks.task import (
    Task,
    Tasks,
    count_tasks,
    select_tasks,
    stack_tasks,
    task_name,
    validate_tasks,
)

logger = logging.getLogger(__name__)


class MetaLearner(BaseLearner):
    """A learner of a task family; it owns the simulations of the family's environments.

    A subclass defines how it trains (`iterate`, `state`, `load_state`) and what adapts to tasks
    (`begin`, `deploy`). Evaluation, adaptation to one task, clips and comparisons follow from that.
    """

    Config: ClassVar[type[FamilyRunConfig]]
    config: FamilyRunConfig
    test_adaptations: int = 1
    """Adaptations to each task of an evaluation, if their number is not given."""
    normalises: bool = False
    """Whether the learner normalises observations itself."""
    learns_from_samples: bool = True
    """Whether adaptation needs actions that were sampled; a policy gradient does."""
    adapts: bool = True
    """Whether more than one stage of an evaluation makes sense; not for an oracle."""

    def __init__(self, config: FamilyRunConfig, family: TaskFamily | None = None):
        """`family` replaces the one that the configuration names."""
        expect_config(config, type(self), type(self).Config)
        if family is not None:
            _expect_family(family)
        self.config = config
        self.family = family or make_family(config.family, config.horizon, **config.family_options)
        self.device = pick_device(config.device)
        self.workers = make_workers(config.threads, config.rank_timeout, config.task_chunk)
        self.observation_space = self.family.prototype.observation_space
        self.action_space = self.family.prototype.action_space
        scale = config.action_scale or self.family.action_scale
        try:  # so that a message names the family
            make_actions(self.action_space)
            Observations.of(self.observation_space)
        except UsageError as error:
            raise UsageError(f"{self.family.id}: {error}") from None
        self.units = ActionUnits.of(self.action_space, scale)
        self.name = f"{self.family.id}, {config.learner} on {self.device}"
        self.splits = self.family.splits
        self.eval_splits = config.eval_splits
        for split in config.eval_splits:
            self.family.check_split(split)
        self.simulations = Simulations(self.family, config, self.workers.threads)
        self.info_metrics = self.simulations.info
        for warning in running_statistics(self.family.prototype):
            logger.warning("%s: %s", self.family.id, warning)

    @property
    @abstractmethod
    def episodes(self) -> int:
        """Episodes of each task before adaptation, and again after each inner step."""

    @abstractmethod
    def begin(self, tasks: Tasks, testing: bool = False) -> Adaptive:
        """What adapts to the tasks, before the first episode.

        Args:
            tasks: arrays [tasks, ...]; only an oracle looks at more than their number.
            testing: whether it is for an evaluation, whose step sizes may differ from training's.

        """

    @abstractmethod
    def deploy(self, adaptive: Adaptive) -> tuple[DeployedPolicy, Parameters]:
        """The policy that is adapted to one task, and its parameters without a task dimension."""

    def interface(self, actions: Actions) -> Interface:
        """What lies between a policy with these actions and the environment."""
        return Interface(actions, self.observation_space, self.action_space, self.units)

    def shard(self, tasks: int) -> Shard:
        """What this process has of so many tasks, where torchrun has started several.

        Raises:
            UsageError: there are more processes than can share the tasks.

        """
        return self.workers.shard(tasks, self.episodes * self.family.horizon, self.device)

    def sample(
        self,
        adaptive: Adaptive,
        tasks: Tasks,
        key: RandomKey,
        stage: int,
        shard: Shard | None = None,
        mean_actions: bool = False,
    ) -> Rollout:
        """Episodes of the tasks, arrays [tasks, ...], under what adapts to them.

        Args:
            mean_actions: whether the most likely action is taken, not a sampled one.
            shard: which of all processes' tasks these are; the rollout is then padded to the
                longest of all processes. All of them if not given.

        Raises:
            NonFiniteError: the policy or an environment gave a number that is infinite or NaN.

        """
        actor = actor_of(adaptive, type(self).__name__)
        with self.located(tasks, key, stage, shard):
            rollout = collect(
                self.simulations.of(count_tasks(tasks), self.episodes),
                MostLikely(actor) if mean_actions else actor,
                self.units,
                tasks,
                self.episodes,
                self.family.horizon,
                key,
                stage,
                self.workers,
                shard.tasks.start if shard else 0,
                self.info_metrics,
            )
            if self.dropped and key.phase is Phase.TRAINING:
                rollout = rollout.blank(self._own_dropped(shard))
            expect_finite_rollout(rollout)
        if shard is not None:
            longest = max(self.workers.ranks.exchange(rollout.valid.shape[2]))
            rollout = dataclasses.replace(rollout.padded(longest), shard=shard)
        if self.iteration == 0 and stage == 0 and key.phase is Phase.TRAINING:
            self._warn_of_scales(rollout)
        if self.on_rollout is not None:
            self.on_rollout(stage)
        return rollout

    def outcomes(self, rollouts: list[Rollout]) -> list[Outcomes]:
        """How the episodes of each rollout went, of all processes' tasks."""
        parts = self.workers.ranks.exchange([rollout.outcomes for rollout in rollouts])
        return [concatenated(stage) for stage in zip(*parts, strict=True)]

    def located(
        self, tasks: Tasks, key: RandomKey, stage: int, shard: Shard | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Says of a `NonFiniteError` in the block where it arose, in all processes.

        It says so too of an error of the user's own code that the block calls.

        Args:
            tasks: those of the block, [tasks, ...].
            key: of the iteration.
            stage: inner steps taken before.
            shard: which of all processes' tasks these are. Every process must enter the block.

        Raises:
            NonFiniteError: the block of a process raised one; `tasks` count those of all processes.
            FamilyError: the user's own code raised an error of another kind.

        """
        where = [self.family.id, f"seed {key.seed}", f"{key.phase.name.lower()}"]
        where += [f"iteration {key.iteration}", f"after {counted(stage, 'inner step')}"]
        first = shard.tasks.start if shard else 0

        def named(task: int) -> tuple[int, str]:
            return first + task, task_name(select_tasks(tasks, task))

        exchange = None if shard is None else self.workers.ranks.exchange
        return located(where, self.remedy, named, exchange)

    def expect_shares(self, tasks: int) -> None:
        """Checks that each process has a part of an evaluation of so many tasks."""
        self.shard(tasks * self.test_adaptations)

    def nothing_learned(self) -> dict[str, float]:
        """The metrics of an iteration whose update was left out."""
        return super().nothing_learned() | {"env_steps": self.env_steps}

    def evaluate(
        self,
        tasks: int | None = None,
        steps: int | None = None,
        split: str = "test",
        adaptations: int | None = None,
        mean_actions: bool = False,
    ) -> Evaluation:
        """Returns after 0..`steps` inner steps on held-out tasks, the same ones at every call.

        The return of a task is a mean over so many `adaptations`, each from its own rollouts. With
        `mean_actions` it is that of the most likely actions. A learner that adapts by gradients
        learns from further episodes with sampled actions; RL² remembers those that are shown.

        Raises:
            UsageError: a number is too small, or the family has no such split.

        """
        number = self.config.eval_tasks if tasks is None else tasks
        repeats = self.test_adaptations if adaptations is None else adaptations
        steps = self.test_steps if steps is None else steps
        at_least("tasks", number, 1)
        at_least("adaptations", repeats, 1)
        at_least("steps", steps, 0)
        fixed = RandomKey(self.config.seed, Phase.EVALUATION)
        key = dataclasses.replace(fixed, iteration=self.iteration)
        drawn = self.family.sample_tasks(number, fixed, split)
        shard = self.shard(number * repeats)
        repeated = {name: np.repeat(values, repeats, 0) for name, values in drawn.items()}
        own = select_tasks(repeated, shard.tasks)
        _, rollouts, experience = self._adaptation(own, steps, key, shard, mean_actions)
        shown, learned_from = self.outcomes(rollouts), self.outcomes(experience)
        return Evaluation(
            split,
            drawn,
            **measured(shown, learned_from, number, repeats, self.info_metrics),
            seed=key.interval_seed,
            episodes=self.episodes,
            paths=self._paths(rollouts, repeats),
            held_out=split != "train" and self.family.holds_out,
            units=self.family.units,
        )

    def adapt(self, task: Task, steps: int | None = None, seed: int | None = None) -> Adapted:
        """The policy adapted to one task by `steps` inner steps, and its returns on the way.

        `seed` determines the random numbers; that of the run if it is not given.

        Raises:
            UsageError: the task is not in the family's space.

        """
        checked = validate_tasks(self.family.task_space, task, None)
        adaptive, rollouts = self._adaptation_to(checked, steps, seed)
        policy, parameters = expect_deployed(self.deploy(adaptive), type(self).__name__)
        returns = np.stack([rollout.returns[0].cpu().numpy() for rollout in rollouts])
        learned_from = sum(rollout.env_steps for rollout in rollouts[:-1])
        return Adapted(policy, parameters, returns, learned_from, self.family.id, checked)

    def rollouts(
        self, task: Task, steps: int | None = None, seed: int | None = None
    ) -> list[Rollout]:
        """The episodes of `adapt`, before adaptation and after each inner step, as tensors.

        Each rollout has one task: its observations are [1, episodes, time, observation].

        Raises:
            UsageError: the task is not in the family's space.

        """
        checked = validate_tasks(self.family.task_space, task, None)
        _, rollouts = self._adaptation_to(checked, steps, seed)
        return [rollout.to(torch.device("cpu")) for rollout in rollouts]

    def render(
        self,
        task: Task,
        steps: int | None = None,
        seed: int | None = None,
        camera: str | None = None,
    ) -> Clip:
        """An episode before adaptation, beside one of the policy of `adapt(task, steps, seed)`.

        `camera` names a camera of a MuJoCo model.

        Raises:
            UsageError: the task is not in the family's space, the family has no pictures or no such
                camera, or this machine cannot render them.

        """
        number = self.test_steps if steps is None else steps
        clips = []
        for k in sorted({0, number}):
            act, family = self.adapt(task, k, seed).policy.act, self.family
            frames = record_clip(family, task, family.horizon, self.config.seed, act, camera)
            clips.append(labelled(frames, f"after {counted(k, 'step')}" if k else "before"))
        return Clip(side_by_side(*clips))

    def on(self, family: TaskFamily) -> Self:
        """A learner of the same policy on another family with the same spaces.

        Raises:
            UsageError: the spaces differ.

        """
        _expect_family(family)
        for name, mine, given in differing_spaces(self.family, family):
            raise UsageError(f"{family.id} has {name} {given}; the policy is for {mine}")
        learner = type(self)(self.config, family)
        learner.load_state(self.state())
        return learner

    def describe(self) -> Json:
        """The family, its variant, and the device."""
        return {
            "config": {"horizon": self.family.horizon},
            "family": self.family.describe(),
            "device": self.workers.describe(self.device),
        }

    def close(self) -> None:
        """Closes the simulations."""
        self.simulations.close()

    def _adaptation(
        self,
        tasks: Tasks,
        steps: int,
        key: RandomKey,
        shard: Shard | None = None,
        mean_actions: bool = False,
    ) -> tuple[Adaptive, list[Rollout], list[Rollout]]:
        """Alternates rollouts and inner steps.

        Returns:
            What is adapted, rollouts 0 to `steps`, and those that each inner step learned from,
            which are the same without `mean_actions`.

        """
        adaptive = self.begin(tasks, testing=True)
        rollouts, experience = [self.sample(adaptive, tasks, key, 0, shard, mean_actions)], []
        for stage in range(1, steps + 1):
            experience.append(rollouts[-1])
            if mean_actions and self.learns_from_samples:
                experience[-1] = self.sample(adaptive, tasks, key, stage - 1, shard)
            with self.located(tasks, key, stage - 1, shard):
                adaptive = adaptive.learn(experience[-1])
            rollouts.append(self.sample(adaptive, tasks, key, stage, shard, mean_actions))
        return adaptive, rollouts, experience

    def _adaptation_to(
        self, task: Task, steps: int | None, seed: int | None
    ) -> tuple[Adaptive, list[Rollout]]:
        """What is adapted to one task, and its rollouts."""
        seed = self.config.seed if seed is None else seed
        at_least("seed", seed, 0)
        key = RandomKey(seed, Phase.ADAPTATION, self.iteration)
        number = self.test_steps if steps is None else steps
        at_least("steps", number, 0)
        adaptive, rollouts, _ = self._adaptation(stack_tasks([task]), number, key)
        return adaptive, rollouts

    def _filled(self, kept: Tensor) -> Tensor:
        """Numbers of the tasks that are not left out, with NaN for those that are: [tasks]."""
        if not self.dropped:
            return kept
        filled = kept.new_full((len(kept) + len(self.dropped),), torch.nan)
        filled[[i for i in range(len(filled)) if i not in self.dropped]] = kept
        return filled

    def _own_dropped(self, shard: Shard | None) -> list[int]:
        """The tasks of this process that the iteration leaves out, by their number here."""
        own = shard.tasks if shard else slice(0, None)
        return [i - own.start for i in self.dropped if own.start <= i < (own.stop or i + 1)]

    def _paths(self, rollouts: list[Rollout], repeats: int) -> list[np.ndarray] | None:
        """The first episode of each task, where observations are places in the plane."""
        if not self.family.planar:
            return None
        paths = [rollout.path().cpu().numpy() for rollout in rollouts]
        parts = self.workers.ranks.exchange(paths)
        return [np.concatenate(stage)[::repeats] for stage in zip(*parts, strict=True)]

    def _warn_of_scales(self, rollout: Rollout) -> None:
        """Warns about observations and actions that a policy learns little from."""
        scale = self.config.action_scale or self.family.action_scale
        warnings = action_warnings(self.action_space, scale)
        if not self.normalises:
            form = Observations.of(self.observation_space)
            seen = rollout.observations[rollout.valid][:, : form.size]  # an oracle's hints follow
            warnings += observation_warnings(form.scaled(seen).cpu().numpy())
        for warning in warnings:
            logger.warning("%s: %s", self.family.id, warning)


def differing_spaces(one: TaskFamily, other: TaskFamily) -> list[tuple[str, Space, Space]]:
    """Names of the spaces for which a policy of one family does not fit the other, and both."""
    names = ("observation_space", "action_space")
    both = [(n, getattr(one.prototype, n), getattr(other.prototype, n)) for n in names]
    return [(name, mine, given) for name, mine, given in both if not same_form(mine, given)]


def _expect_family(family: object) -> None:
    wanted = "family must be a metarl.TaskFamily, as metarl.make_family(ID) gives"
    expect_instance(family, TaskFamily, wanted)
