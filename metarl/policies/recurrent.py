"""A recurrent policy, which keeps its hidden state across the episodes of a trial."""

import torch
from torch import Tensor, nn

from metarl.policies.action_distributions import (
    MINIMUM_LOG_STD,
    Categorical,
    Distribution,
    Gaussian,
)
from metarl.policies.mlp import CategoricalPolicy, GaussianPolicy
from metarl.policies.normalisation import Statistics

LARGEST_INPUT = 10.0
"""Normalised inputs are clipped to this magnitude."""


class RecurrentPolicy(nn.Module):
    """A GRU over a trial with two linear heads: the distribution of actions, and the value.

    An input consists of the observation, the previous reward, the previous action, and 1 at the
    first step of an episode (otherwise 0). Observation and reward are normalised by the statistics
    of earlier iterations. Values are in units of the standard deviation of discounted returns.
    """

    def __init__(self, spaces: GaussianPolicy | CategoricalPolicy, hidden_size: int, seed: int):
        """`spaces` gives the sizes, and whether actions are discrete."""
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
        mean, std = self.seen.moments
        seen, rest = inputs[..., : len(mean)], inputs[..., len(mean) :]
        features, hidden = self.gru(torch.cat([normalised(seen, mean, std), rest], -1), hidden)
        output, values = self.actor(features), self.critic(features).squeeze(-1)
        if self.is_discrete:
            return Categorical(torch.log_softmax(output, -1)), values, hidden
        log_std = self.log_std.clamp(min=MINIMUM_LOG_STD).expand(1, 1, -1)
        return Gaussian(output, log_std), values, hidden

    def shown(self, actions: Tensor) -> Tensor:
        """Actions in the form of the next input, one-hot if discrete: [..., action]."""
        if self.is_discrete:
            return nn.functional.one_hot(actions, self.action_size).float()
        return actions


def normalised(inputs: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(inputs − mean) / std, clipped: float32 [..., n]."""
    return ((inputs - mean) / std).clamp(-LARGEST_INPUT, LARGEST_INPUT).float()
