"""Multilayer-perceptron policies as pure functions of a parameter dict.

Every parameter has a leading [tasks] dimension, one set of weights per task; `expand` gives all
tasks the same set. Observations are [tasks, ..., observation], and outputs are [tasks, ...].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.policies.action_distributions import (
    MINIMUM_LOG_STD,
    Categorical,
    Distribution,
    Gaussian,
)
from metarl.policies.normalisation import ObservationNormaliser
from metarl.policies.parameters import Parameters
from metarl.support.errors import UsageError
from metarl.support.types import Space

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
Activation = Literal["tanh", "relu"]
CONTEXT = "context"


class Policy(Protocol):
    """The interface through which rollouts, adaptation and objectives use a policy."""

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """New parameters without a task dimension."""

    def distribution(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Distribution:
        """π(· | s) under parameters [tasks, ...] at observations [tasks, ..., observation]."""

    def noise(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        """Noise for `Distribution.sample`: [*shape, action]."""


@dataclass(frozen=True)
class Network:
    """Weights and biases of a multilayer perceptron, named `layer_i.weight` and `layer_i.bias`."""

    observation_size: int
    action_size: int
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    context_size: int = 0
    """Number of inputs besides the observation: the parameter `context`, which CAVIA adapts."""
    normaliser: ObservationNormaliser | None = None
    """Normalises the observations before the first layer."""

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the parameters after the last hidden layer."""
        last = f"layer_{len(self.hidden_sizes)}"
        return (f"{last}.weight", f"{last}.bias")

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """Glorot-uniform weights [in, out] and zero biases [out], float32, without the context."""
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
        if self.normaliser is not None:
            x = self.normaliser(x)
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
    """A network for the mean, and a log σ that does not depend on the state."""

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """The network's parameters, and `log_std` [action] with initial value 0."""
        network = super().initial_parameters(generator)
        return {**network, "log_std": torch.zeros(self.action_size)}

    @property
    def head(self) -> tuple[str, ...]:
        """The last layer's parameters and log σ."""
        return (*super().head, "log_std")

    def distribution(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Gaussian:
        """The normal distribution over actions, with log σ ≥ log 1e-6."""
        mean = self.output(parameters, observations)
        log_std = parameters["log_std"].clamp(min=MINIMUM_LOG_STD)
        ones = (1,) * (mean.dim() - 2)
        return Gaussian(mean, log_std.reshape(-1, *ones, self.action_size))

    def noise(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        """Standard normal noise, float32: [*shape, action]."""
        return generator.standard_normal((*shape, self.action_size), np.float32)


@dataclass(frozen=True)
class CategoricalPolicy(Network):
    """A network whose outputs are the logits of a finite number of actions."""

    def distribution(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Categorical:
        """The distribution over actions."""
        return Categorical(torch.log_softmax(self.output(parameters, observations), -1))

    def noise(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        """Standard Gumbel noise, float32: [*shape, actions]."""
        return generator.gumbel(size=(*shape, self.action_size)).astype(np.float32)


def make_policy(
    observation_space: Space,
    action_space: Space,
    hidden_sizes: tuple[int, ...] = (64, 64),
    activation: Activation = "tanh",
    context_size: int = 0,
    task_size: int = 0,
    normalise: bool = False,
) -> GaussianPolicy | CategoricalPolicy:
    """The policy for the spaces: Gaussian for a Box of actions, categorical for Discrete.

    Args:
        task_size: number of inputs that follow the observation.
        normalise: whether to normalise the observation and these inputs.

    Raises:
        UsageError: a space is not supported; the message names those that are.

    """
    if not isinstance(observation_space, gymnasium.spaces.Box):
        raise UsageError(
            f"observation space {observation_space} is not supported: it must be a Box "
            "(gymnasium.wrappers.FlattenObservation makes one)"
        )
    observation_size = math.prod(observation_space.shape) + task_size
    normaliser = ObservationNormaliser(observation_size) if normalise else None
    network = (hidden_sizes, activation, context_size, normaliser)
    if isinstance(action_space, gymnasium.spaces.Box) and len(action_space.shape) == 1:
        return GaussianPolicy(observation_size, action_space.shape[0], *network)
    if isinstance(action_space, gymnasium.spaces.Discrete) and action_space.start == 0:
        return CategoricalPolicy(observation_size, int(action_space.n), *network)
    raise UsageError(
        f"action space {action_space} is not supported: it must be a Box of one dimension, or "
        "Discrete with start 0"
    )
