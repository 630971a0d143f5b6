"""What a policy needs to know of a space of actions: the form of its output and of its noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.policies.action_distributions import (
    IMPOSSIBLE,
    MINIMUM_LOG_STD,
    Categorical,
    Distribution,
    Gaussian,
    MultiCategorical,
)
from metarl.policies.observations import numbers
from metarl.policies.parameters import Parameters
from metarl.support.errors import UsageError
from metarl.support.randomness import Array, NoiseSource
from metarl.support.types import Space

LOG_STD = "log_std"
"""Parameter of a Gaussian policy: [action]."""


class Actions(Protocol):
    """A space of actions, as vectors or numbers."""

    @property
    def outputs(self) -> int:
        """Numbers that the network gives for each observation."""

    @property
    def is_discrete(self) -> bool:
        """Whether actions are integers."""

    @property
    def own_parameters(self) -> Parameters:
        """Initial values of the parameters that the distribution has beside the network's."""

    def distribution(self, output: Tensor, parameters: Mapping[str, Tensor]) -> Distribution:
        """The distribution from the network's output [tasks, ..., outputs]."""

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """Noise for `Distribution.sample`: [*shape, ...]."""

    def shown(self, actions: Tensor) -> Tensor:
        """Actions in the form of a network's input, one-hot if discrete: [..., outputs]."""


@dataclass(frozen=True)
class ContinuousActions:
    """Vectors of real numbers; log σ does not depend on the state."""

    outputs: int
    is_discrete = False

    @property
    def own_parameters(self) -> Parameters:
        """`log_std` [action], 0 at first."""
        return {LOG_STD: torch.zeros(self.outputs)}

    def distribution(self, output: Tensor, parameters: Mapping[str, Tensor]) -> Gaussian:
        """The normal distribution around the output, with log σ ≥ log 1e-6."""
        log_std = parameters[LOG_STD].clamp(min=MINIMUM_LOG_STD)
        ones = (1,) * (output.dim() - 2)
        return Gaussian(output, log_std.reshape(-1, *ones, self.outputs))

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """Standard normal noise, float32: [*shape, action]."""
        return generator.standard_normal((*shape, self.outputs), np.float32)

    def shown(self, actions: Tensor) -> Tensor:
        """As they are."""
        return actions


@dataclass(frozen=True)
class DiscreteActions:
    """One of a number of actions, counted from 0."""

    outputs: int
    is_discrete = True

    @property
    def own_parameters(self) -> Parameters:
        """None."""
        return {}

    def distribution(self, output: Tensor, parameters: Mapping[str, Tensor]) -> Categorical:
        """The distribution with the output as logits."""
        return Categorical(torch.log_softmax(output, -1))

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """Standard Gumbel noise: [*shape, actions]."""
        return generator.gumbel(size=(*shape, self.outputs))

    def shown(self, actions: Tensor) -> Tensor:
        """One-hot."""
        return one_hot(actions, self.outputs).float()


@dataclass(frozen=True)
class MultiDiscreteActions:
    """Several independent choices: dimension i is one of `options[i]`, counted from 0."""

    options: tuple[int, ...]
    is_discrete = True

    @property
    def outputs(self) -> int:
        """A logit for each option of each dimension."""
        return sum(self.options)

    @property
    def own_parameters(self) -> Parameters:
        """None."""
        return {}

    def distribution(self, output: Tensor, parameters: Mapping[str, Tensor]) -> MultiCategorical:
        """The product of distributions with the output as logits, padded to the most options."""
        most, logits = max(self.options), torch.split(output, list(self.options), -1)
        padded = [
            torch.nn.functional.pad(
                torch.log_softmax(own, -1), (0, most - own.shape[-1]), value=IMPOSSIBLE
            )
            for own in logits
        ]
        return MultiCategorical(torch.stack(padded, -2))

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """Standard Gumbel noise: [*shape, dimensions, most options]."""
        size = (*shape, len(self.options), max(self.options))
        return generator.gumbel(size=size)

    def shown(self, actions: Tensor) -> Tensor:
        """One-hot, one dimension after the other."""
        each = zip(actions.unbind(-1), self.options, strict=True)
        return torch.cat([one_hot(own, options).float() for own, options in each], -1)


def make_actions(space: Space) -> Actions:
    """The actions of a space.

    Raises:
        UsageError: the space is not supported; the message names those that are.

    """
    if isinstance(space, spaces.Box) and numbers(space):
        return ContinuousActions(numbers(space))
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.size:
        return MultiDiscreteActions(tuple(space.nvec.ravel().tolist()))
    if isinstance(space, spaces.MultiBinary) and numbers(space):
        return MultiDiscreteActions((2,) * numbers(space))
    raise UsageError(
        f"action space {space} is not supported: it must be a Box, Discrete, MultiDiscrete or "
        "MultiBinary, with at least one number"
    )
