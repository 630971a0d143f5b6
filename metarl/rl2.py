"""RL²: a recurrent policy that learns within its hidden state, the black-box rival of MAML.

Duan et al. 2016 (arXiv 1611.02779) and Wang et al. 2016 (arXiv 1611.05763). A *trial* is several
consecutive episodes of one task. The policy sees what it did and what that paid, and keeps its
hidden state from one episode of the trial to the next: adapting is running it. It is trained by PPO
on the return of whole trials; `metarl.training.run` trains it like any other learner.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from metarl.advantage import discounted_sums, generalised_advantages
from metarl.clock import Clock
from metarl.config import option
from metarl.errors import UsageError
from metarl.evaluation import Evaluation
from metarl.parallel import Workers, pick_device
from metarl.policy import (
    MINIMUM_LOG_STD,
    Categorical,
    CategoricalPolicy,
    Distribution,
    Gaussian,
    GaussianPolicy,
    make_policy,
)
from metarl.randomness import Phase, RandomKey, Use
from metarl.simulation.gymnasium import Processes, make_simulations
from metarl.tasks import TaskFamily, Tasks, make_family, select_tasks

TRIALS_PER_CHUNK = 25
"""Trials that a thread takes at once in the update: fewer of them cost a GRU as much time."""
LARGEST_INPUT = 10.0
"""Normalised inputs are clipped to ± this."""
SMALLEST_STD = 1e-4
"""What varies less is not scaled up further."""


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


class Statistics(nn.Module):
    """Mean and deviation of all rows seen so far, in float64; a part of the network's state."""

    count: Tensor
    sums: Tensor  # [2, size], of the rows and of their squares

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(2, size, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Counts rows [n, size] in."""
        rows = rows.double()
        self.count += len(rows)
        self.sums += torch.stack([rows.sum(0), rows.square().sum(0)])

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation: [size]; 0 and 1 as long as nothing was seen."""
        mean, square = self.sums / self.count.clamp(min=1)
        std = (square - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_STD)
        return mean, torch.where(self.count > 0, std, 1.0)


class RecurrentPolicy(nn.Module):
    """A GRU over a trial with two linear heads: the distribution of actions, and the value.

    An input is (observation, previous reward, previous action, has an episode just begun); the
    first two are normalised by what was seen in earlier iterations, values are in units of the
    deviation of discounted returns.
    """

    def __init__(self, spaces: GaussianPolicy | CategoricalPolicy, hidden_size: int, seed: int):
        """`spaces` knows the sizes, and whether actions are discrete."""
        super().__init__()
        self.is_discrete = isinstance(spaces, CategoricalPolicy)
        self.action_size = spaces.action_size
        self.seen = Statistics(spaces.observation_size + 1)
        self.returns = Statistics(1)
        size = spaces.observation_size + 1 + spaces.action_size + 1
        self.gru = nn.GRU(size, hidden_size, batch_first=True)
        self.actor = nn.Linear(hidden_size, spaces.action_size)
        self.critic = nn.Linear(hidden_size, 1)
        if not self.is_discrete:
            self.log_std = nn.Parameter(torch.zeros(spaces.action_size))
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        """Orthogonal matrices and zero biases; the policy begins nearly without preferences."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
                continue
            # The GRU's matrices are those of its three gates, one below the other.
            for matrix in parameter.chunk(3 if name.startswith("gru") else 1):
                gain = 0.01 if name.startswith("actor") else 1.0
                nn.init.orthogonal_(matrix, gain, generator=generator)

    def forward(
        self, inputs: Tensor, hidden: Tensor | None = None
    ) -> tuple[Distribution, Tensor, Tensor]:
        """Reads [trials, steps, input], from a zero state if none is given.

        Returns:
            π(· | history) [trials, steps, ...], values [trials, steps] and the hidden state after
            the last step [1, trials, hidden].

        """
        mean, std = self.seen.moments
        seen, rest = inputs[..., : len(mean)], inputs[..., len(mean) :]
        normalised = ((seen - mean) / std).clamp(-LARGEST_INPUT, LARGEST_INPUT).float()
        features, hidden = self.gru(torch.cat([normalised, rest], -1), hidden)
        output, values = self.actor(features), self.critic(features).squeeze(-1)
        if self.is_discrete:
            return Categorical(torch.log_softmax(output, -1)), values, hidden
        return Gaussian(output, self.log_std.clamp(min=MINIMUM_LOG_STD)), values, hidden

    def shown(self, actions: Tensor) -> Tensor:
        """Actions as the next input has them, one-hot if discrete: [..., action]."""
        if self.is_discrete:
            return nn.functional.one_hot(actions, self.action_size).float()
        return actions


@dataclass(frozen=True)
class Trials:
    """Trials, one to a row: their steps without gaps between episodes, padded with zeros."""

    inputs: Tensor  # [trials, steps, input] float32, not yet normalised
    actions: Tensor  # [trials, steps, action] float32, or [trials, steps] int64
    log_probs: Tensor  # [trials, steps] float32, of the actions when they were drawn
    values: Tensor  # [trials, steps] float32, when the actions were drawn
    rewards: Tensor  # [trials, steps] float64
    valid: Tensor  # [trials, steps] bool; False is padding, at the end
    returns: Tensor  # [trials, episodes] float64, undiscounted
    success: Tensor | None  # [trials, episodes] bool, at any step; None: it is not told
    unstable: int  # episodes cut short because the simulation failed

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return int(self.valid.sum())


PER_STEP = ("inputs", "actions", "log_probs", "values", "rewards", "valid")
"""Fields of `Trials` that have a number for each step."""


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


def collect_trials(
    simulations: Sequence[gymnasium.vector.VectorEnv],
    spaces: GaussianPolicy | CategoricalPolicy,
    network: RecurrentPolicy,
    tasks: Tasks,
    repeats: int,
    episodes: int,
    horizon: int,
    key: RandomKey,
    workers: Workers,
) -> Trials:
    """`repeats` trials of each task, one in each of the simulations' environments.

    Each simulation has its share of the tasks, in order, and a thread of its own. Streams are those
    of `metarl.rollout.collect`, with the episode's index for the stage.

    Raises:
        UsageError: an environment gave a reward or an observation that is not finite.

    """
    ends = np.cumsum([simulation.num_envs // repeats for simulation in simulations])
    shares = [range(*bounds) for bounds in pairwise([0, *ends.tolist()])]

    def of_share(simulation: gymnasium.vector.VectorEnv, share: range) -> Trials:
        own = select_tasks(tasks, slice(share.start, share.stop))
        simulation.task = {n: np.repeat(v, repeats, axis=0) for n, v in own.items()}  # type: ignore[attr-defined]
        return _collect(simulation, spaces, network, share, repeats, episodes, horizon, key)

    return _joined(workers.map(of_share, simulations, shares))


@torch.no_grad()
def _collect(
    simulation: gymnasium.vector.VectorEnv,
    spaces: GaussianPolicy | CategoricalPolicy,
    network: RecurrentPolicy,
    indices: range,
    repeats: int,
    episodes: int,
    horizon: int,
    key: RandomKey,
) -> Trials:
    """The trials of one simulation; `indices` number its tasks among all."""
    number, device = simulation.num_envs, network.actor.weight.device
    space = simulation.single_action_space
    bounds = (space.low, space.high) if isinstance(space, gymnasium.spaces.Box) else None
    hidden = torch.zeros(1, number, network.gru.hidden_size, device=device)
    action = torch.zeros(number, network.action_size, device=device)
    reward = torch.zeros(number, dtype=torch.float64)
    steps: list[tuple[Tensor, ...]] = []  # of all episodes, one after the other
    returns = torch.zeros(number, episodes, dtype=torch.float64)
    success, tells, unstable = np.zeros((number, episodes), bool), False, 0

    for episode in range(episodes):
        seeds = [s for i in indices for s in key.seeds(Use.RESET, i, episode, repeats)]
        generators = [key.generator(Use.ACTION, i, episode) for i in indices]
        # Time first, so that a longer horizon begins with the same noise.
        drawn = np.stack([spaces.noise(g, horizon, repeats) for g in generators], axis=1)
        noise = torch.from_numpy(drawn).to(device).flatten(1, 2).unsqueeze(2)
        observations, _ = simulation.reset(seed=seeds)  # type: ignore[arg-type]
        ended, began = np.zeros(number, bool), torch.ones(number, 1, device=device)
        for t in range(horizon):
            x = torch.from_numpy(np.asarray(observations, np.float32)).reshape(number, -1)
            seen = torch.cat([x, reward.float().unsqueeze(-1)], -1).to(device)
            inputs = torch.cat([seen, action, began], -1)
            distribution, values, later = network(inputs.unsqueeze(1), hidden)
            actions = distribution.sample(noise[t])  # [trials, 1, ...]
            log_probs = distribution.log_prob(actions)
            # The environment gets clipped actions; the policy is trained on what it drew.
            flat = actions.squeeze(1).cpu().numpy()
            observations, paid, terminated, truncated, info = simulation.step(
                flat if bounds is None else np.clip(flat, *bounds)
            )
            valid, rewards = torch.from_numpy(~ended), torch.from_numpy(paid).double()
            steps.append(
                (inputs, *(y.squeeze(1) for y in (actions, log_probs, values)), rewards, valid)
            )
            # A trial whose episode has ended rests until all have: nothing it remembers may move.
            going = valid.to(device).unsqueeze(-1)
            hidden = torch.where(going, later, hidden)
            action = torch.where(going, network.shown(actions.squeeze(1)), action)
            reward = torch.where(valid, rewards, reward)
            began = torch.zeros_like(began)
            returns[:, episode] += rewards * valid
            unstable += int(np.sum(info.get("unstable", 0)))
            if "success" in info:
                tells = True
                success[:, episode] |= ~ended & (np.asarray(info["success"]) > 0)
            ended = terminated | truncated
            if ended.all():
                break
    told = torch.from_numpy(success) if tells else None
    return _packed(steps, returns, told, unstable)


def _packed(
    steps: list[tuple[Tensor, ...]], returns: Tensor, success: Tensor | None, unstable: int
) -> Trials:
    """The trials of what was kept step by step, the rests of ended episodes left out.

    As the hidden state stands still in a rest, a GRU over the packed steps passes through the
    states of sampling.
    """
    stacked = [torch.stack(values, 1) for values in zip(*steps, strict=True)]
    valid = stacked[-1]
    packed = {
        name: pad_sequence([x[m.to(x.device)] for x, m in zip(values, valid, strict=True)], True)
        for name, values in zip(PER_STEP, stacked, strict=True)
    }
    for name, shown in (("inputs", "observations"), ("rewards", "rewards")):
        if not packed[name].isfinite().all():
            raise UsageError(f"the environment gave {shown} that are not finite")
    return Trials(**packed, returns=returns, success=success, unstable=unstable)


def _joined(parts: list[Trials]) -> Trials:
    """The trials of several simulations as one, padded to the longest."""
    told = [part.success for part in parts if part.success is not None]
    return Trials(
        **{n: pad_sequence([x for p in parts for x in getattr(p, n)], True) for n in PER_STEP},
        returns=torch.cat([part.returns for part in parts]),
        success=torch.cat(told) if len(told) == len(parts) else None,
        unstable=sum(part.unstable for part in parts),
    )


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
        self._simulations: dict[tuple[int, int], list[gymnasium.vector.VectorEnv]] = {}
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
