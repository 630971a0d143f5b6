"""Distributions over actions, as named tuples of tensors."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MINIMUM_LOG_STD = math.log(1e-6)
IMPOSSIBLE = -1e9
"""Log probability of what fills up a dimension with fewer options; finite, so that 0 · it is 0."""


class Gaussian(NamedTuple):
    """A diagonal normal distribution over actions."""

    mean: Tensor  # [tasks, ..., action]
    log_std: Tensor  # [tasks, ..., action], or broadcastable to it

    def log_prob(self, actions: Tensor) -> Tensor:
        """The log density −Σ (½ ((a − μ) / σ)² + log σ + ½ log 2π): [tasks, ...]."""
        z = (actions - self.mean) * torch.exp(-self.log_std)
        constant = 0.5 * math.log(2 * math.pi)
        return -(0.5 * z.square() + self.log_std + constant).sum(-1)

    def kl(self, other: "Distribution") -> Tensor:
        """KL(self ‖ other) = Σ log σ₂/σ₁ + (σ₁² + (μ₁ − μ₂)²) / 2σ₂² − ½: [tasks, ...]."""
        assert isinstance(other, Gaussian)
        log_ratio = other.log_std - self.log_std
        squares = torch.exp(2 * self.log_std) + (self.mean - other.mean).square()
        return (log_ratio + 0.5 * squares * torch.exp(-2 * other.log_std) - 0.5).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """a = μ + σ ε for standard normal ε: [tasks, ..., action]."""
        return self.mean + torch.exp(self.log_std) * noise

    def mode(self) -> Tensor:
        """The most likely action: [tasks, ..., action]."""
        return self.mean

    def entropy(self) -> Tensor:
        """Σ log σ + ½ log 2πe: [tasks, ...]."""
        constant = 0.5 * math.log(2 * math.pi * math.e)
        return (self.log_std + constant).expand_as(self.mean).sum(-1)


class Categorical(NamedTuple):
    """A distribution over a finite number of actions."""

    log_probs: Tensor  # [tasks, ..., actions], normalised

    def log_prob(self, actions: Tensor) -> Tensor:
        """log p(a): [tasks, ...]."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def kl(self, other: "Distribution") -> Tensor:
        """KL(self ‖ other) = Σ p₁ (log p₁ − log p₂): [tasks, ...]."""
        assert isinstance(other, Categorical)
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """argmax(log p + g), distributed as p for standard Gumbel noise g: [tasks, ...]."""
        return (self.log_probs + noise).argmax(-1)

    def mode(self) -> Tensor:
        """The most likely action: [tasks, ...]."""
        return self.log_probs.argmax(-1)

    def entropy(self) -> Tensor:
        """−Σ p log p: [tasks, ...]."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


class MultiCategorical(NamedTuple):
    """Several independent choices among a finite number of options each."""

    log_probs: Tensor  # [tasks, ..., dimensions, options], normalised; IMPOSSIBLE fills up

    def log_prob(self, actions: Tensor) -> Tensor:
        """Σ_i log p_i(a_i) of actions [tasks, ..., dimensions]: [tasks, ...]."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1).sum(-1)

    def kl(self, other: "Distribution") -> Tensor:
        """The sum of the dimensions' KL divergences: [tasks, ...]."""
        assert isinstance(other, MultiCategorical)
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum((-2, -1))

    def sample(self, noise: Tensor) -> Tensor:
        """argmax(log p + g) of each dimension for Gumbel noise g: [tasks, ..., dimensions]."""
        return (self.log_probs + noise).argmax(-1)

    def mode(self) -> Tensor:
        """The most likely action: [tasks, ..., dimensions]."""
        return self.log_probs.argmax(-1)

    def entropy(self) -> Tensor:
        """The sum of the dimensions' entropies: [tasks, ...]."""
        return -(self.log_probs.exp() * self.log_probs).sum((-2, -1))


Distribution = Gaussian | Categorical | MultiCategorical
