"""RL²: a recurrent policy that learns within its hidden state, the black-box rival of MAML.

Duan et al. 2016 (arXiv 1611.02779) and Wang et al. 2016 (arXiv 1611.05763). A *trial* is several
consecutive episodes of one task. The policy sees what it did and what that paid, and keeps its
hidden state from one episode of the trial to the next: adapting is running it. It is trained by PPO
on the return of whole trials; it is a learner like any other.
"""

import copy
import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from metarl.evaluation.outcomes import return_metrics
from metarl.learners.config import Budget, PolicyRunConfig
from metarl.learners.learner import MetaLearner
from metarl.policies.actions import make_actions
from metarl.policies.deployed import RecurrentDeployedPolicy
from metarl.policies.export import DeployedPolicy
from metarl.policies.normalisation import SMALLEST_STD
from metarl.policies.observations import Observations
from metarl.policies.parameters import Parameters
from metarl.policies.policy import PolicyOptions, make_encoder
from metarl.policies.recurrent import RecurrentPolicy, TrialLength
from metarl.sampling.actor import Adaptive
from metarl.sampling.advantage import discounted_sums, generalised_advantages
from metarl.sampling.data import Rollout, Trials
from metarl.sampling.task_choice import TaskChoiceOptions, TaskSampler
from metarl.sampling.trials import Memory, TrialActor, join_trials
from metarl.support.clock import Clock
from metarl.support.errors import NonFiniteError, UsageError
from metarl.support.finite import expect_finite, expect_finite_state, overflow_is_named
from metarl.support.options import Count, NonNegative, Positive, Probability
from metarl.support.parallel import Shard
from metarl.support.randomness import Phase, RandomKey, Use
from metarl.support.types import State
from metarl.tasks.family import TaskFamily
from metarl.tasks.task import Tasks, count_tasks, select_tasks

TRIALS_PER_CHUNK = 25
"""Trials that a thread takes at once in the update: fewer of them cost a GRU as much time."""


@dataclass(frozen=True, kw_only=True)
class RL2Config(TaskChoiceOptions, PolicyRunConfig):
    """A run of RL²."""

    learner: Literal["rl2"] = "rl2"
    trials: Count = 100
    """Trials of an iteration, each of a task of its own."""
    episodes: Count = 4
    """Consecutive episodes of a trial."""
    hidden_size: Count = 128
    """Length of the recurrent network's hidden state."""
    learning_rate: Positive = 1e-3
    """Step size of Adam. With 3e-4 RL² learns Navigation2D several times more slowly."""
    discount: Probability = 0.99
    """Discount γ, over the whole trial; reported returns are undiscounted."""
    gae_lambda: Probability = 0.95
    """λ of generalised advantage estimation."""
    clip: Positive = 0.2
    """The ratio of probabilities is clipped to 1 ± this."""
    epochs: Count = 4
    """Passes over an iteration's trials."""
    minibatches: Count = 4
    """Steps of Adam in a pass, each on its share of the trials."""
    value_weight: NonNegative = 0.5
    """Weight of the values' squared error in the loss."""
    entropy_bonus: NonNegative = 0.0
    """Weight of the policy's entropy in the objective."""
    max_gradient_norm: Positive = 0.5
    """Longer gradients are scaled to this."""
    eval_trials: Count = 5
    """Independent trials of each held-out task, whose returns are averaged."""

    changeable: ClassVar[frozenset[str]] = PolicyRunConfig.changeable | {"eval_trials"}
    of_policy: ClassVar[frozenset[str]] = PolicyRunConfig.of_policy | {"hidden_size"}

    def __post_init__(self) -> None:
        """Checks every number."""
        super().__post_init__()
        if self.minibatches > self.trials:
            raise UsageError(
                f"--minibatches {self.minibatches} must be at most --trials {self.trials}"
            )

    @property
    def episodes_per_iteration(self) -> int:
        """Episodes of all trials."""
        return self.trials * self.episodes

    @property
    def environments(self) -> int:
        """One for each trial."""
        return self.trials

    @classmethod
    def at_budget(cls, budget: Budget, **options: Any) -> Self:
        """Trials with an episode for each stage, in all as many as a batch of MAML has.

        Raises:
            UsageError: that is less than one trial.

        """
        trials, episodes = budget.batch // budget.stages, budget.stages
        if trials < 1:
            raise UsageError(
                f"--meta-batch-size times --episodes is {budget.batch}, less than one trial of "
                f"rl2, which has {episodes} episodes"
            )
        minibatches = min(options.get("minibatches", cls.minibatches), trials)
        sizes = {"trials": trials, "episodes": episodes, "minibatches": minibatches}
        return super().at_budget(budget, **(options | sizes))


@dataclass(frozen=True)
class Experience:
    """What the update sees of trials."""

    inputs: Tensor  # [trials, steps, input]
    actions: Tensor  # [trials, steps, ...]
    log_probs: Tensor  # [trials, steps], of the policy that acted
    advantages: Tensor  # [trials, steps] float32, mean 0 and deviation 1 over all steps
    targets: Tensor  # [trials, steps] float32, of the values
    valid: Tensor  # [trials, steps] bool

    def __getitem__(self, trials: Any) -> Self:
        """Some of the trials."""
        return type(self)(*(getattr(self, f.name)[trials] for f in fields(self)))


def make_experience(trials: Trials, scale: float, discount: float, gae_lambda: float) -> Experience:
    """The trials with advantages and the values' targets, of rewards divided by `scale`.

    Advantages are estimated over the whole trial, across the ends of its episodes, terminated or
    truncated: what is learned in an episode pays in the next. The trial ends with its last step,
    so that nothing is bootstrapped there.

    Raises:
        NonFiniteError: an advantage is infinite or NaN.

    """
    rewards, valid = (x.cpu().unsqueeze(1) for x in (trials.rewards / scale, trials.valid))
    values = trials.values.cpu().double().unsqueeze(1) * valid
    nothing = torch.zeros(len(values), 1, dtype=torch.float64)
    advantages = generalised_advantages(rewards, values, nothing, valid, discount, gae_lambda)
    expect_finite("an advantage", {"its value": advantages, "the reward": rewards}, by_task=True)
    std, mean = torch.std_mean(advantages[valid], correction=0)
    normalised = (advantages - mean) / (std + SMALLEST_STD) * valid
    device = trials.inputs.device
    return Experience(
        trials.inputs,
        trials.actions,
        trials.log_probs,
        normalised.squeeze(1).float().to(device),
        (advantages + values).squeeze(1).float().to(device),
        trials.valid.to(device),
    )


def clipped_loss(network: RecurrentPolicy, batch: Experience, config: RL2Config) -> Tensor:
    """The loss of PPO (Schulman et al. 2017, arXiv 1707.06347, equation 9), summed over steps.

    ρ = π(a | history) / π_old(a | history)
    L = −min(ρ A, clip(ρ, 1 ± ε) A) + ½ c_v (V − target)² − c_e H
    """
    distribution, values, _ = network(batch.inputs)
    # On padding, which weighs nothing, the exponential could be infinite.
    log_ratio = (distribution.log_prob(batch.actions) - batch.log_probs) * batch.valid
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    surrogate = torch.min(ratio * batch.advantages, clipped * batch.advantages)
    error = 0.5 * (values - batch.targets).square()
    bonus = config.entropy_bonus * distribution.entropy()
    loss: Tensor = (config.value_weight * error - surrogate - bonus) * batch.valid
    return loss.sum()


class RL2Learner(MetaLearner):
    """Learns a recurrent policy for a task family."""

    Config: ClassVar[type[RL2Config]] = RL2Config
    drops_tasks = True
    config: RL2Config
    remedy = "a smaller --learning-rate"
    episodes = 1  # of a trial, in each stage
    normalises = True
    learns_from_samples = False

    def __init__(self, config: RL2Config, family: TaskFamily | None = None):
        """`family` replaces the one that the configuration names."""
        super().__init__(config, family)
        (seed,) = RandomKey(config.seed).seeds(Use.PARAMETERS, 0, 0, 1)
        self.network = RecurrentPolicy(
            Observations.of(self.observation_space).size,
            make_actions(self.action_space),
            config.hidden_size,
            seed,
            TrialLength(self.family.horizon, config.episodes, config.discount),
            make_encoder(
                self.observation_space,
                config.hidden_size,
                PolicyOptions(config.policy, config.policy_options),
            ),
        ).to(self.device)
        self._adam = torch.optim.Adam(self.network.parameters(), config.learning_rate)
        self.task_sampler = TaskSampler(self.family, config)
        self.test_steps = config.episodes - 1
        self.test_adaptations = config.eval_trials

    def iterate(self) -> dict[str, float]:
        """Fresh trials and an update on them; its metrics, by the names of metrics.jsonl."""
        config, clock = self.config, Clock()
        key = RandomKey(config.seed, Phase.TRAINING, self.iteration + 1)
        if config.trials - len(self.dropped) < config.minibatches:
            raise NonFiniteError(f"fewer than {config.minibatches} trials have finite numbers")
        tasks = self.task_sampler.draw(config.trials, key)
        with clock("sampling"):
            rollouts = self.sample_trials(tasks, key)
            if self.workers.ranks.number > 1:  # others have not this process's GPU
                rollouts = [rollout.to(torch.device("cpu")) for rollout in rollouts]
            # Every process makes the whole update: steps of Adam on few trials each.
            parts = self.workers.ranks.exchange(join_trials(rollouts))
            every = Trials.joined(parts)
            trials = every.without(self.dropped).to(self.device)
            outcomes = [outcome.without(self.dropped) for outcome in self.outcomes(rollouts)]
        with clock("meta_update"), self.located(tasks, key, config.episodes - 1):
            self.network.returns.add(
                discounted_sums(trials.rewards, config.discount)[trials.valid].unsqueeze(-1)
            )
            scale = float(self.network.returns.moments[1])
            batch = make_experience(trials, scale, config.discount, config.gae_lambda)
            update = self._update(batch, key)
            expect_finite_state(update)
            # Only now, as the ratios are to the policy that acted.
            width = self.network.observation_size + 1
            self.network.seen.add(batch.inputs[batch.valid][:, :width])

        self.iteration += 1
        self.env_steps += every.env_steps
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            **return_metrics(outcomes, self.info_metrics),
            **self.task_sampler.learn(self._filled(outcomes[-1].returns.mean(1))),
            **update,
            **clock.metrics(),
            "throughput/env_steps_per_second": every.env_steps / clock.total,
        }

    def sample_trials(self, tasks: Tasks, key: RandomKey) -> list[Rollout]:
        """Consecutive episodes of one trial of each of this process's tasks.

        Returns:
            [trials, 1, time, ...] each.

        """
        shard = self.shard(count_tasks(tasks))
        own = select_tasks(tasks, shard.tasks)
        adaptive = self.begin(own)
        rollouts = []
        for episode in range(self.config.episodes):
            rollouts.append(self.sample(adaptive, own, key, episode, shard))
            adaptive = adaptive.learn(rollouts[-1])
        return rollouts

    def begin(self, tasks: Tasks, testing: bool = False) -> TrialActor:
        """An empty memory of each task."""
        memory = Memory.empty(self.network, count_tasks(tasks))
        return TrialActor(self.network, memory)

    def deploy(self, adaptive: Adaptive) -> tuple[DeployedPolicy, Parameters]:
        """The network with the memory of its only task."""
        assert isinstance(adaptive, TrialActor)
        memory = adaptive.memory
        policy = RecurrentDeployedPolicy(
            copy.deepcopy(self.network).cpu(),
            memory.hidden[0, 0].cpu(),
            memory.action[0].cpu(),
            float(memory.reward[0]),
            self.interface(self.network.actions),
        )
        return policy, {"hidden": memory.hidden[0, 0].cpu().clone()}

    def state(self) -> State:
        """All that a resumed run needs; a copy, as the update changes parameters in place."""
        return {
            "network": {n: p.cpu().clone() for n, p in self.network.state_dict().items()},
            "adam": copy.deepcopy(self._adam.state_dict()),
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "tasks": self.task_sampler.state(),
        }

    def load_state(self, state: State) -> None:
        """Continues from `state()`."""
        self.network.load_state_dict(state["network"])
        self._adam.load_state_dict(copy.deepcopy(state["adam"]))
        self.iteration, self.env_steps = state["iteration"], state["env_steps"]
        self.task_sampler.load_state(state.get("tasks", {}))

    def initialise(self, other: Self) -> None:
        """Begins with the network of another learner."""
        self.network.load_state_dict(other.network.state_dict())

    def _update(self, batch: Experience, key: RandomKey) -> dict[str, float]:
        """Several passes of Adam over the trials, and `outer/...` metrics."""
        config = self.config
        norms: list[float] = []
        for epoch in range(config.epochs):
            # Of the streams there are, the one that RL² has no other use for.
            generator = key.generator(Use.PERTURBATION, stage=epoch)
            order = torch.from_numpy(generator.permutation(len(batch.valid)))
            norms += [self._step(batch[part]) for part in order.tensor_split(config.minibatches)]
        ratios, entropies = map(torch.cat, zip(*self._replay(batch), strict=True))
        gains = (ratios - 1) * batch.advantages[batch.valid]
        metrics = {
            "outer/surrogate": float(gains.mean()),
            # E[ρ − 1 − log ρ]: KL(old ‖ new) of the actions drawn, never negative.
            "outer/kl": float((ratios - 1 - ratios.log()).mean()),
            "outer/entropy": float(entropies.mean()),
            "outer/gradient_norm": norms[0],
        }
        if not self.network.actions.is_discrete:
            metrics["policy/std"] = float(self.network.log_std.detach().exp().mean())
        return metrics

    def _step(self, batch: Experience) -> float:
        """One step of Adam; the gradient's norm before it was cut."""
        parameters, number = list(self.network.parameters()), batch.valid.sum()

        def gradient(chunk: slice) -> tuple[Tensor, ...]:
            loss = clipped_loss(self.network, batch[chunk], self.config) / number
            return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

        chunks = self._chunks(batch)
        gradients = self.workers.sum(gradient, chunks, self._shard_of(batch))
        named = zip(self.network.named_parameters(), gradients, strict=True)
        expect_finite("the gradient of the update", {name: x for (name, _), x in named})
        for parameter, total in zip(parameters, gradients, strict=True):
            parameter.grad = total
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
        with overflow_is_named("a step of Adam"):
            self._adam.step()
        return float(norm)

    def _replay(self, batch: Experience) -> list[tuple[Tensor, Tensor]]:
        """Ratios ρ and entropies at the steps of each chunk of trials."""

        @torch.no_grad()
        def of_chunk(chunk: slice) -> tuple[Tensor, Tensor]:
            part = batch[chunk]
            distribution, _, _ = self.network(part.inputs)
            ratios = (distribution.log_prob(part.actions) - part.log_probs).exp()
            return ratios[part.valid], distribution.entropy()[part.valid]

        return self.workers.map(of_chunk, self._chunks(batch), shard=self._shard_of(batch))

    def _chunks(self, batch: Experience) -> list[slice]:
        """Trials in nearly equal parts, the same for any number of threads; a GPU takes all."""
        number = len(batch.valid)
        most = TRIALS_PER_CHUNK if self.device.type == "cpu" else number
        parts = math.ceil(number / min(most, self.config.task_chunk or most))
        ends = [number * i // parts for i in range(parts + 1)]
        return [slice(*bounds) for bounds in pairwise(ends)]

    def _shard_of(self, batch: Experience) -> Shard:
        """Each chunk of trials as one of as many tasks as the largest has, for a sum over them."""
        chunks = self._chunks(batch)
        largest = max(chunk.stop - chunk.start for chunk in chunks)
        return Shard(len(chunks) * largest, largest)
