"""A learner of one's own: a Bayesian one for bandits, in one file outside metarl.

From this folder:

    metarl train --learner beta_bandit:BetaBandit --family envs:BernoulliBandit-v0 --iterations 20
    metarl evaluate runs/BernoulliBandit-v0/BetaBandit-seed-1 --trust

What adapts is a posterior: Beta(a + successes, b + failures) for each arm of each task. Training
fits the prior (a, b) to what the arms of the training tasks paid before adaptation, by the method
of moments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metarl.evaluation.outcomes import return_metrics
from metarl.learners.config import FamilyRunConfig
from metarl.learners.learner import MetaLearner
from metarl.policies.action_distributions import Categorical, Distribution
from metarl.policies.export import DeployedPolicy
from metarl.policies.parameters import Parameters
from metarl.sampling.actor import Adaptive
from metarl.sampling.data import Rollout
from metarl.support.errors import UsageError
from metarl.support.options import Count, Positive
from metarl.support.randomness import Array, NoiseSource, Phase, RandomKey
from metarl.tasks.task import Tasks, count_tasks


@dataclass(frozen=True, kw_only=True)
class BetaBanditConfig(FamilyRunConfig):
    """A Bayesian learner of bandits that pay 0 or 1."""

    learner: str = "beta_bandit:BetaBandit"
    """Which learner trains."""
    meta_batch_size: Count = 40
    """Tasks of an iteration."""
    episodes: Count = 10
    """Pulls of each task before adaptation, and again after each step."""
    steps: Count = 1
    """Steps of adaptation in training."""
    temperature: Positive = 0.05
    """Arms are drawn with probability softmax(posterior mean / temperature)."""

    @property
    def episodes_per_iteration(self) -> int:
        """Pulls of all tasks and stages."""
        return self.meta_batch_size * self.episodes * (self.steps + 1)


@dataclass(frozen=True)
class Posterior:
    """Beta(a, b) of each arm of each task; acts and adapts."""

    a: Tensor  # [tasks, arms]
    b: Tensor  # [tasks, arms]
    temperature: float

    @property
    def device(self) -> torch.device:
        """Where actions are computed."""
        return self.a.device

    @property
    def mean(self) -> Tensor:
        """Expected reward of each arm: [tasks, arms]."""
        return self.a / (self.a + self.b)

    def actor(self) -> "Posterior":
        """Acts by its own mean."""
        return self

    def part(self, tasks: slice) -> "Posterior":
        """The posterior of some of the tasks."""
        return Posterior(self.a[tasks], self.b[tasks], self.temperature)

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """Standard Gumbel noise: [*shape, arms]."""
        return generator.gumbel(size=(*shape, self.a.shape[1]))

    def perceive(self, observations: Tensor) -> Tensor:
        """The observation, which says nothing in a bandit."""
        return observations

    def act(self, inputs: Tensor) -> tuple[Distribution, None]:
        """The probability of each arm, the same in all episodes of a task."""
        scores = torch.log_softmax(self.mean / self.temperature, -1).float()
        return Categorical(scores.unsqueeze(1).expand(*inputs.shape[:-1], -1)), None

    def remember(self, actions: Tensor, rewards: Tensor, active: Tensor) -> None:
        """Nothing during an episode, which is one pull."""

    def learn(self, rollout: Rollout) -> "Posterior":
        """Counts the successes and failures of each arm."""
        pulls, wins = counts(rollout, self.a.shape[1])
        return Posterior(self.a + wins, self.b + pulls - wins, self.temperature)


def counts(rollout: Rollout, arms: int) -> tuple[Tensor, Tensor]:
    """How often each arm was pulled, and how often it paid: [tasks, arms] each."""
    chosen = torch.nn.functional.one_hot(rollout.actions[:, :, 0], arms).double()
    return chosen.sum(1), (chosen * rollout.rewards[:, :, :1]).sum(1)


class BestArm(DeployedPolicy):
    """Pulls the arm with the largest posterior mean."""

    def __init__(self, mean: Tensor):
        super().__init__()
        self.mean = torch.nn.Parameter(mean.float(), requires_grad=False)

    def forward(self, observations: Tensor) -> Tensor:
        """Observations [n, observation] -> arms [n]."""
        return 0 * observations[:, 0].long() + self.mean.argmax()

    def act(self, observation: np.ndarray, reward: float) -> int:
        """The arm."""
        return int(self.mean.argmax())

    def weights(self) -> dict[str, Tensor]:
        """The means."""
        return {"mean": self.mean}

    def description(self) -> dict[str, object]:
        """Number of arms."""
        return {"actions": len(self.mean)}

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Observations."""
        return (torch.zeros(rows, 1),)


class BetaBandit(MetaLearner):
    """Learns the prior over the arms of a bandit."""

    Config: ClassVar[type[BetaBanditConfig]] = BetaBanditConfig
    config: BetaBanditConfig

    def __init__(self, config: BetaBanditConfig, family: Any = None):
        super().__init__(config, family)
        if not hasattr(self.action_space, "n"):
            raise UsageError(f"{self.family.id}: beta_bandit needs numbered actions")
        self.arms = int(self.action_space.n)
        self.prior = torch.ones(2, dtype=torch.float64)  # a, b
        self.seen: list[Tensor] = []  # pulls and wins of every arm so far, [2, tasks * arms] each
        self.test_steps = config.steps

    @property
    def episodes(self) -> int:
        """Pulls of a stage."""
        return self.config.episodes

    def iterate(self) -> dict[str, float]:
        """Pulls arms of fresh tasks, adapts, and fits the prior to the first pulls of all tasks."""
        key = RandomKey(self.config.seed, Phase.TRAINING, self.iteration + 1)
        tasks = self.family.sample_tasks(self.config.meta_batch_size, key, "train")
        adaptive, rollouts = self.begin(tasks), []
        for stage in range(self.config.steps + 1):
            rollouts.append(self.sample(adaptive, tasks, key, stage))
            adaptive = adaptive.learn(rollouts[-1])
        # Later stages pull those arms more that have won: their wins say too much of the prior.
        pulls, wins = counts(rollouts[0], self.arms)
        self.seen.append(torch.stack([pulls.flatten(), wins.flatten()]))
        self.prior = fitted_prior(*torch.cat(self.seen, 1))
        self.iteration += 1
        self.env_steps += sum(rollout.env_steps for rollout in rollouts)
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            **return_metrics(rollouts, self.info_metrics),
            "prior/a": float(self.prior[0]),
            "prior/b": float(self.prior[1]),
        }

    def begin(self, tasks: Tasks, testing: bool = False) -> Posterior:
        """The prior, for every arm of every task."""
        shape = (count_tasks(tasks), self.arms)
        a, b = (self.prior[i].expand(shape).clone() for i in (0, 1))
        return Posterior(a, b, self.config.temperature)

    def deploy(self, adaptive: Adaptive) -> tuple[DeployedPolicy, Parameters]:
        """The best arm of the only task."""
        assert isinstance(adaptive, Posterior)
        return BestArm(adaptive.mean[0]), {"a": adaptive.a[0], "b": adaptive.b[0]}

    def state(self) -> dict[str, Any]:
        """The prior, and what it was fitted to."""
        return {
            "prior": self.prior,
            "seen": self.seen,
            "iteration": self.iteration,
            "env_steps": self.env_steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from `state()`."""
        self.prior, self.seen = state["prior"], list(state["seen"])
        self.iteration, self.env_steps = state["iteration"], state["env_steps"]


def fitted_prior(pulls: Tensor, wins: Tensor) -> Tensor:
    """(a, b) of the Beta whose mean and variance those of the arms have: [arms] each -> [2].

    The pulls must not depend on the wins. Where p has mean m and variance v, E[k / n] = m and E[k
    (k − 1) / (n (n − 1))] = m² + v for k wins of n pulls; arms with fewer than two pulls are left
    out.
    """
    n, k = (x[pulls >= 2] for x in (pulls, wins))
    mean = (k / n).mean().clamp(0.01, 0.99)
    variance = (k * (k - 1) / (n * (n - 1))).mean() - mean**2
    total = mean * (1 - mean) / variance.clamp(min=1e-3) - 1
    return torch.stack([mean, 1 - mean]) * total.clamp(min=0.1)
