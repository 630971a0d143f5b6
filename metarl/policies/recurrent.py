"""A recurrent policy, which keeps its hidden state across the episodes of a trial."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarl.policies.action_distributions import Distribution
from metarl.policies.actions import Actions
from metarl.policies.module_network import ModuleNetwork
from metarl.policies.normalisation import Statistics
from metarl.policies.observations import Observations

LARGEST_INPUT = 10.0
"""Normalised inputs are clipped to this magnitude."""


@dataclass(frozen=True)
class TrialLength:
    """How long trials are, and so how much reward is still to come."""

    horizon: int
    """Steps of an episode, at most."""
    episodes: int
    discount: float
    """γ, over the whole trial."""

    def to_come(self) -> Tensor:
        """The share of the discounted time that is left after so many steps: [steps + 1].

        Σ_{k < steps − t} γ^k / Σ_{k < steps} γ^k

        """
        steps = torch.arange(self.horizon * self.episodes, dtype=torch.float64)
        worth = (self.discount**steps).cumsum(0)
        return torch.cat([torch.zeros(1), worth / worth[-1]]).flip(0).float()


class RecurrentPolicy(nn.Module):
    """A GRU over a trial with two heads: the distribution of actions (linear), and the value.

    An input consists of the observation, the previous reward, the previous action, 1 at the first
    step of an episode (otherwise 0), and the steps since the episode and since the trial began.
    Observation and reward are normalised by the statistics of earlier iterations. Values are in
    units of the standard deviation of discounted returns.

    The steps are for the values alone, as the time is for the baselines of Duan et al. 2016 (arXiv
    1604.06778): a reward that goes on is worth less the nearer the trial's end, and a GRU does not
    count several hundred steps. The value is what the head gives times the discounted time to come.

    An encoder, if there is one, reads the observation instead, without that normalisation.
    """

    log_std: nn.Parameter  # [action], if actions are continuous
    to_come: Tensor  # [steps + 1], of `TrialLength`

    def __init__(
        self,
        observation_size: int,
        actions: Actions,
        hidden_size: int,
        seed: int,
        length: TrialLength,
        encoder: ModuleNetwork | None = None,
    ):
        """`encoder` has `hidden_size` outputs."""
        super().__init__()
        self.observation_size = observation_size
        self.actions = actions
        self.horizon = length.horizon
        self.register_buffer("to_come", length.to_come(), persistent=False)
        self.seen = Statistics(observation_size + 1)
        self.returns = Statistics(1)
        features = hidden_size if encoder else observation_size
        self.gru = nn.GRU(features + 1 + actions.outputs + 1, hidden_size, batch_first=True)
        self.actor = nn.Linear(hidden_size, actions.outputs)
        self.critic = nn.Sequential(
            nn.Linear(hidden_size + 2, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1)
        )
        for name, value in actions.own_parameters.items():
            self.register_parameter(name, nn.Parameter(value))
        self._initialise(torch.Generator().manual_seed(seed))
        self.form = None if encoder is None else encoder.observations
        self.encoder = None if encoder is None else encoder.fresh_module(seed)

    def _initialise(self, generator: torch.Generator) -> None:
        """Orthogonal matrices and zero biases; the actor is small, so that inputs matter little."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
                continue
            # A matrix of the GRU is a stack of the matrices of its three gates.
            for matrix in parameter.chunk(3 if name.startswith("gru") else 1):
                gain = 0.01 if name.startswith("actor") else 1.0
                nn.init.orthogonal_(matrix, gain, generator=generator)

    def forward(
        self, inputs: Tensor, hidden: Tensor | None = None
    ) -> tuple[Distribution, Tensor, Tensor]:
        """Reads inputs [trials, steps, input]; the hidden state is 0 if it is not given.

        Returns:
            π(· | history) [trials, steps, ...], values [trials, steps] and the hidden state after
            the last step [1, trials, hidden].

        """
        size = self.observation_size + 1
        seen = read(inputs[..., :size], *self.seen.moments, self.encoder, self.form)
        features, hidden = self.gru(torch.cat([seen, inputs[..., size:-2]], -1), hidden)
        own = {name: getattr(self, name)[None] for name in self.actions.own_parameters}
        distribution = self.actions.distribution(self.actor(features), own)
        of_episode, of_trial = inputs[..., -2] / self.horizon, inputs[..., -1].long()
        to_come = self.to_come[of_trial.clamp(max=len(self.to_come) - 1)]
        clock = torch.stack([of_episode, to_come], -1)
        values = self.critic(torch.cat([features, clock], -1)).squeeze(-1) * to_come
        return distribution, values, hidden


def read(
    seen: Tensor,
    mean: Tensor,
    std: Tensor,
    encoder: nn.Module | None = None,
    form: Observations | None = None,
) -> Tensor:
    """What the core reads of observations and rewards [..., observation + 1].

    Args:
        mean, std: [observation + 1].
        encoder: reads observations of the form, without normalisation.

    """
    if encoder is None or form is None:
        return normalised(seen, mean, std)
    features = encoder(form.structured(form.scaled(seen[..., :-1].flatten(0, -2))))
    rewards = normalised(seen[..., -1:], mean[-1:], std[-1:])
    return torch.cat([features.reshape(*seen.shape[:-1], -1), rewards], -1)


def normalised(inputs: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(inputs − mean) / std, clipped: float32 [..., n]."""
    return ((inputs - mean) / std).clamp(-LARGEST_INPUT, LARGEST_INPUT).float()
