"""RL²: a recurrent policy that learns within its hidden state, the black-box rival of MAML.

Duan et al. 2016 (arXiv 1611.02779) and Wang et al. 2016 (arXiv 1611.05763). A *trial* is several
consecutive episodes of one task. The policy sees what it did and what that paid, and keeps its
hidden state from one episode of the trial to the next: adapting is running it. It is trained by PPO
on the return of whole trials; `metarl.runs.run.run` trains it like any other learner.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from metarl.evaluation.evaluation import Evaluation
from metarl.policies.action_distributions import Categorical, Distribution
from metarl.policies.mlp import make_policy
from metarl.policies.recurrent import SMALLEST_STD, RecurrentPolicy
from metarl.sampling.advantage import discounted_sums, generalised_advantages
from metarl.sampling.data import Trials
from metarl.sampling.trials import collect_trials
from metarl.simulation.backends import Processes, make_simulations
from metarl.simulation.protocol import Simulation
from metarl.support.clock import Clock
from metarl.support.errors import UsageError
from metarl.support.options import option
from metarl.support.parallel import Workers, pick_device
from metarl.support.randomness import Phase, RandomKey, Use
from metarl.tasks.family import TaskFamily, make_family
from metarl.tasks.task import Tasks

TRIALS_PER_CHUNK = 25
"""Trials that a thread takes at once in the update: fewer of them cost a GRU as much time."""


@dataclass(frozen=True)
class RL2Config:
    """A run of RL²."""

    family: str
    """Task family, MODULE:ID; the module is imported first, from the working folder too."""
    family_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """The family's variant, name and value in turn: `observation finn action_scale 1`."""
    iterations: int = 500
    """Updates, each on fresh trials."""
    run_dir: Path | None = None
    """The run folder itself; runs/<family>/rl2-seed-<seed> if not given."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder."""
    seed: int = 1
    """Names all random numbers of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the policy acts and learns; auto takes a GPU when there is one."""
    threads: int = 0
    """Threads for the simulator and for the learner, which take turns; 0 is one for each core."""
    workers: int = 0
    """Processes for environments that neither MuJoCo's batch nor arrays can step; 0 steps them in
    this one. Their number changes no result."""
    worker_timeout: float = 60.0
    """Seconds that a worker may take for one step of its environments before it is given up."""

    trials: int = 100
    """Trials of an iteration, each of a task of its own."""
    episodes: int = 4
    """Consecutive episodes of a trial."""
    horizon: int | None = None
    """Steps after which an episode is truncated; the family's own if not given."""
    hidden_size: int = 128
    """Length of the recurrent network's hidden state."""
    learning_rate: float = 1e-3
    """Step size of Adam. With 3e-4 RL² learns Navigation2D several times more slowly."""
    discount: float = 0.99
    """Discount γ, over the whole trial; reported returns are undiscounted."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    clip: float = 0.2
    """The ratio of probabilities is clipped to 1 ± this."""
    epochs: int = 4
    """Passes over an iteration's trials."""
    minibatches: int = 4
    """Steps of Adam in a pass, each on its share of the trials."""
    value_weight: float = 0.5
    """Weight of the values' squared error in the loss."""
    entropy_bonus: float = 0.0
    """Weight of the policy's entropy in the objective."""
    max_gradient_norm: float = 0.5
    """Longer gradients are scaled to this."""

    eval_every: int = 10
    """Evaluate on held-out tasks after every so many iterations; 0 never does."""
    eval_tasks: int = 40
    """Held-out tasks of an evaluation."""
    eval_trials: int = 5
    """Independent trials of each held-out task, whose returns are averaged."""
    checkpoint_every: int = 10
    """Iterations between checkpoints; the last one is always written."""

    def __post_init__(self) -> None:
        """Checks every number.

        Raises:
            UsageError: names the option, its value and what would be right.

        """
        for names, lowest in ((_COUNTS, 1), (_FROM_ZERO, 0)):
            for name in names:
                value = getattr(self, name)
                if value is not None and not (math.isfinite(value) and value >= lowest):
                    raise UsageError(
                        f"{option(name)} {value} must be a number of at least {lowest}"
                    )
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option(name)} {value} must be a number above 0")
        for name in ("discount", "gae_lambda"):
            if getattr(self, name) > 1:
                raise UsageError(f"{option(name)} {getattr(self, name)} must be at most 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--device {self.device} must be one of auto, cpu, cuda")
        if self.minibatches > self.trials:
            raise UsageError(
                f"--minibatches {self.minibatches} must be at most --trials {self.trials}"
            )

    @property
    def run_folder(self) -> Path:
        """`run_dir`, or the folder that the family and the seed name."""
        return self.run_dir or Path("runs", self.family.rpartition(":")[2], f"rl2-seed-{self.seed}")


_COUNTS = (
    *("iterations", "trials", "episodes", "horizon", "hidden_size", "epochs", "minibatches"),
    *("eval_tasks", "eval_trials", "checkpoint_every"),
)
_FROM_ZERO = (
    *("seed", "threads", "workers", "eval_every", "discount", "gae_lambda"),
    *("value_weight", "entropy_bonus"),
)
_POSITIVE = ("worker_timeout", "learning_rate", "clip", "max_gradient_norm")


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
    """
    rewards, valid = (x.cpu().unsqueeze(1) for x in (trials.rewards / scale, trials.valid))
    values = trials.values.cpu().double().unsqueeze(1) * valid
    nothing = torch.zeros(len(values), 1, dtype=torch.float64)
    advantages = generalised_advantages(rewards, values, nothing, valid, discount, gae_lambda)
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


def entropy(distribution: Distribution) -> Tensor:
    """H = −Σ p log p, or Σ log σ + ½ log 2πe of a normal distribution: [trials, steps]."""
    if isinstance(distribution, Categorical):
        return -(distribution.log_probs.exp() * distribution.log_probs).sum(-1)
    constant = 0.5 * math.log(2 * math.pi * math.e)
    return (distribution.log_std + constant).expand_as(distribution.mean).sum(-1)


def clipped_loss(network: RecurrentPolicy, batch: Experience, config: RL2Config) -> Tensor:
    """The loss of PPO (Schulman et al. 2017, arXiv 1707.06347, equation 9), summed over steps.

    ρ = π(a | history) / π_old(a | history)
    L = −min(ρ A, clip(ρ, 1 ± ε) A) + ½ c_v (V − target)² − c_e H
    """
    distribution, values, _ = network(batch.inputs)
    ratio = (distribution.log_prob(batch.actions) - batch.log_probs).exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    surrogate = torch.min(ratio * batch.advantages, clipped * batch.advantages)
    error = 0.5 * (values - batch.targets).square()
    bonus = config.entropy_bonus * entropy(distribution)
    loss: Tensor = (config.value_weight * error - surrogate - bonus) * batch.valid
    return loss.sum()


class RL2Learner:
    """Learns a recurrent policy for a task family."""

    def __init__(self, config: RL2Config, family: TaskFamily | None = None):
        """`family` replaces the one that the configuration names."""
        self.config = config
        self.family = family or make_family(config.family, config.horizon, **config.family_options)
        self.device = pick_device(config.device)
        self.workers = Workers(config.threads)
        self._simulations: dict[tuple[int, int], list[Simulation]] = {}
        prototype = self.family.prototype
        self.spaces = make_policy(prototype.observation_space, prototype.action_space, ())
        (seed,) = RandomKey(config.seed).seeds(Use.PARAMETERS, 0, 0, 1)
        self.network = RecurrentPolicy(self.spaces, config.hidden_size, seed).to(self.device)
        self._adam = torch.optim.Adam(self.network.parameters(), config.learning_rate)
        self.iteration = 0
        self.env_steps = 0
        self.name = f"{self.family.id}, RL² on {self.device}"
        self.measure = "return"
        self.test_steps = config.episodes - 1
        self.eval_splits: tuple[str, ...] = ("test",)

    def iterate(self) -> dict[str, float]:
        """Fresh trials and an update on them; its metrics, by the names of metrics.jsonl."""
        config, clock = self.config, Clock()
        key = RandomKey(config.seed, Phase.TRAINING, self.iteration + 1)
        tasks = self.family.sample_tasks(config.trials, key, "train")
        with clock("sampling"):
            trials = self._sample(tasks, 1, key)
        with clock("meta_update"):
            self.network.returns.add(
                discounted_sums(trials.rewards, config.discount)[trials.valid].unsqueeze(-1)
            )
            scale = float(self.network.returns.moments[1])
            batch = make_experience(trials, scale, config.discount, config.gae_lambda)
            update = self._update(batch, key)
            # Only now, as the ratios are to the policy that acted.
            width = self.spaces.observation_size + 1
            self.network.seen.add(batch.inputs[batch.valid][:, :width])

        self.iteration += 1
        self.env_steps += trials.env_steps
        returns = trials.returns.mean(0).tolist()
        rates = [] if trials.success is None else trials.success.float().mean(0).tolist()
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "return/before": returns[0],
            "return/after": returns[-1],
            "return/gain": returns[-1] - returns[0],
            **{f"return/step_{k}": value for k, value in enumerate(returns)},
            **({"success/before": rates[0], "success/after": rates[-1]} if rates else {}),
            **update,
            "simulation/unstable": trials.unstable,
            **{f"time/{name}": seconds for name, seconds in clock.seconds.items()},
            "time/whole": (whole := clock.total),
            "throughput/env_steps_per_second": trials.env_steps / whole,
        }

    def learn(self, iterations: int) -> Iterator[dict[str, float]]:
        """Iterates until `iterations` updates are done in all, yielding each one's metrics."""
        while self.iteration < iterations:
            yield self.iterate()

    def evaluate(self, tasks: int | None = None, split: str = "test") -> Evaluation:
        """Returns on held-out tasks, the same at every call, in the trial's episodes.

        Entry k is the return after k episodes of experience, the mean of `eval_trials` trials.
        """
        number, repeats = tasks or self.config.eval_tasks, self.config.eval_trials
        fixed = RandomKey(self.config.seed, Phase.EVALUATION)
        key = dataclasses.replace(fixed, iteration=self.iteration)
        drawn = self.family.sample_tasks(number, fixed, split)
        trials = self._sample(drawn, repeats, key)

        def of_tasks(values: Tensor) -> np.ndarray:
            means: np.ndarray = values.double().reshape(number, repeats, -1).mean(1).T.numpy()
            return means

        success = None if trials.success is None else of_tasks(trials.success)
        return Evaluation(
            split, drawn, of_tasks(trials.returns), key.interval_seed, success=success
        )

    def describe(self) -> dict[str, Any]:
        """What config.json holds of the family, its variant and the device."""
        return {
            "config": {"horizon": self.family.horizon},
            "family": self.family.describe(),
            "device": self.workers.describe(self.device),
        }

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; a copy, as the update changes parameters in place."""
        return {
            "network": {n: p.cpu().clone() for n, p in self.network.state_dict().items()},
            "adam": copy.deepcopy(self._adam.state_dict()),
            "iteration": self.iteration,
            "env_steps": self.env_steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state()`."""
        self.network.load_state_dict(state["network"])
        self._adam.load_state_dict(copy.deepcopy(state["adam"]))
        self.iteration, self.env_steps = state["iteration"], state["env_steps"]

    def _sample(self, tasks: Tasks, repeats: int, key: RandomKey) -> Trials:
        number, config = len(next(iter(tasks.values()))), self.config
        if (number, repeats) not in self._simulations:
            processes = Processes(config.workers, config.worker_timeout)
            self._simulations[number, repeats] = make_simulations(
                self.family, number, repeats, self.workers.threads, processes
            )
        return collect_trials(
            self._simulations[number, repeats],
            self.spaces,
            self.network,
            tasks,
            repeats,
            config.episodes,
            self.family.horizon,
            key,
            self.workers,
        )

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
        if not self.network.is_discrete:
            metrics["policy/std"] = float(self.network.log_std.detach().exp().mean())
        return metrics

    def _step(self, batch: Experience) -> float:
        """One step of Adam; the gradient's norm before it was cut."""
        parameters, number = list(self.network.parameters()), batch.valid.sum()

        def gradient(chunk: slice) -> tuple[Tensor, ...]:
            loss = clipped_loss(self.network, batch[chunk], self.config) / number
            return torch.autograd.grad(loss, parameters)

        gradients = self.workers.map(gradient, self._chunks(batch))
        for parameter, parts in zip(parameters, zip(*gradients, strict=True), strict=True):
            parameter.grad = torch.stack(parts).sum(0)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
        self._adam.step()
        return float(norm)

    def _replay(self, batch: Experience) -> list[tuple[Tensor, Tensor]]:
        """Ratios ρ and entropies at the steps of each chunk of trials."""

        @torch.no_grad()
        def of_chunk(chunk: slice) -> tuple[Tensor, Tensor]:
            part = batch[chunk]
            distribution, _, _ = self.network(part.inputs)
            ratios = (distribution.log_prob(part.actions) - part.log_probs).exp()
            return ratios[part.valid], entropy(distribution)[part.valid]

        return self.workers.map(of_chunk, self._chunks(batch))

    def _chunks(self, batch: Experience) -> list[slice]:
        """Trials in nearly equal parts, the same for any number of threads; a GPU takes all."""
        number = len(batch.valid)
        parts = math.ceil(number / TRIALS_PER_CHUNK) if self.device.type == "cpu" else 1
        ends = [number * i // parts for i in range(parts + 1)]
        return [slice(*bounds) for bounds in pairwise(ends)]
