"""Multilayer-perceptron policies as pure functions of a parameter dict.

Every parameter has a leading [tasks] dimension: one set of weights per task (`expand` gives all
tasks the same one). Observations are [tasks, ..., observation]; what comes out is [tasks, ...].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.errors import UsageError

Parameters = dict[str, Tensor]

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
Activation = Literal["tanh", "relu"]
CONTEXT = "context"
MINIMUM_LOG_STD = math.log(1e-6)


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


class Categorical(NamedTuple):
    """A distribution over a finite number of actions."""

    log_probs: Tensor  # [tasks, ..., actions], normalised

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log p(a): [tasks, ...]."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def kl(self, other: "Distribution") -> Tensor:
        """KL(self ‖ other) = Σ p₁ (log p₁ − log p₂): [tasks, ...]."""
        assert isinstance(other, Categorical)
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Argmax (log p + g) for standard Gumbel noise g is distributed as p: [tasks, ...]."""
        return (self.log_probs + noise).argmax(-1)

    def mode(self) -> Tensor:
        """The most likely action: [tasks, ...]."""
        return self.log_probs.argmax(-1)


Distribution = Gaussian | Categorical


class Policy(Protocol):
    """What rollouts, adaptation and objectives ask of a policy."""

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """Fresh parameters, without a task dimension."""

    def distribution(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Distribution:
        """π(· | s) under parameters [tasks, ...] at observations [tasks, ..., observation]."""

    def noise(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        """What `Distribution.sample` takes: [*shape, action]."""


@dataclass(frozen=True)
class Network:
    """Weights and biases of a multilayer perceptron, named `layer_i.weight` and `layer_i.bias`."""

    observation_size: int
    action_size: int
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    context_size: int = 0
    """Inputs beside the observation: the parameter `context`, by which CAVIA adapts."""

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the parameters behind the last hidden layer."""
        last = f"layer_{len(self.hidden_sizes)}"
        return (f"{last}.weight", f"{last}.bias")

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """Glorot-uniform weights [in, out] and zero biases [out], float32; no context."""
        inputs = self.observation_size + self.context_size
        sizes = (inputs, *self.hidden_sizes, self.action_size)
        parameters = {}
        for i, (n_in, n_out) in enumerate(pairwise(sizes)):
            bound = math.sqrt(6 / (n_in + n_out))
            weight = generator.uniform(-bound, bound, (n_in, n_out)).astype(np.float32)
            parameters[f"layer_{i}.weight"] = torch.from_numpy(weight)
            parameters[f"layer_{i}.bias"] = torch.zeros(n_out)
        return parameters

    def output(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """The last layer's output: [tasks, ..., action]."""
        activation = ACTIVATIONS[self.activation]
        last = len(self.hidden_sizes)
        x = observations.flatten(1, -2)  # [tasks, rows, observation]
        if self.context_size:
            context = parameters[CONTEXT].unsqueeze(1).expand(-1, x.shape[1], -1)
            x = torch.cat([x, context], -1)
        for i in range(last + 1):
            bias = parameters[f"layer_{i}.bias"].unsqueeze(1)
            x = torch.baddbmm(bias, x, parameters[f"layer_{i}.weight"])
            x = x if i == last else activation(x)
        return x.reshape(*observations.shape[:-1], -1)


@dataclass(frozen=True)
class GaussianPolicy(Network):
    """A network for the mean and a state-independent log σ, both adapted by the inner loop."""

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """The network's parameters and `log_std` [action], 0 at first."""
        network = super().initial_parameters(generator)
        return {**network, "log_std": torch.zeros(self.action_size)}

    @property
    def head(self) -> tuple[str, ...]:
        """The last layer's parameters and log σ."""
        return (*super().head, "log_std")

    def distribution(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Gaussian:
        """The normal distribution of actions; log σ is kept above log 1e-6."""
        mean = self.output(parameters, observations)
        log_std = parameters["log_std"].clamp(min=MINIMUM_LOG_STD)
        ones = (1,) * (mean.dim() - 2)
        return Gaussian(mean, log_std.reshape(-1, *ones, self.action_size))

    def noise(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        """Standard normal noise, float32: [*shape, action]."""
        return generator.standard_normal((*shape, self.action_size), np.float32)


@dataclass(frozen=True)
class CategoricalPolicy(Network):
    """A network whose output are the logits of a finite number of actions."""

    def distribution(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Categorical:
        """The distribution over actions."""
        return Categorical(torch.log_softmax(self.output(parameters, observations), -1))

    def noise(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        """Standard Gumbel noise, float32: [*shape, actions]."""
        return generator.gumbel(size=(*shape, self.action_size)).astype(np.float32)


def make_policy(
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
    hidden_sizes: tuple[int, ...] = (64, 64),
    activation: Activation = "tanh",
    context_size: int = 0,
    task_size: int = 0,
) -> GaussianPolicy | CategoricalPolicy:
    """The policy that fits the spaces: Gaussian for a Box of actions, categorical for Discrete.

    `task_size` numbers more stand behind the observation.
    """
    if not isinstance(observation_space, gymnasium.spaces.Box):
        raise UsageError(
            f"observation space {observation_space} is not supported; a Box is "
            "(gymnasium.wrappers.FlattenObservation makes one)"
        )
    observation_size = math.prod(observation_space.shape) + task_size
    if isinstance(action_space, gymnasium.spaces.Box) and len(action_space.shape) == 1:
        size = action_space.shape[0]
        return GaussianPolicy(observation_size, size, hidden_sizes, activation, context_size)
    if isinstance(action_space, gymnasium.spaces.Discrete) and action_space.start == 0:
        return CategoricalPolicy(
            observation_size, int(action_space.n), hidden_sizes, activation, context_size
        )
    raise UsageError(
        f"action space {action_space} is not supported; a Box of one dimension and Discrete are"
    )


def expand(parameters: Mapping[str, Tensor], tasks: int) -> Parameters:
    """The same parameters for every task: a leading [tasks] dimension, without copying."""
    return {name: value.expand(tasks, *value.shape) for name, value in parameters.items()}


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([value.reshape(-1) for value in parameters.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Parameters:
    """The vector's parts, named and shaped as in `like`."""
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(like.items(), parts, strict=True)
    }
