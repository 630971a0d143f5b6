"""Multilayer perceptrons as pure functions of a parameter dict.

Every parameter has a leading [tasks] dimension, one set of weights per task; `expand` gives all
tasks the same set. Observations are [tasks, ..., observation], and outputs are [tasks, ...].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metarl.policies.normalisation import ObservationNormaliser
from metarl.policies.observations import Observations
from metarl.policies.parameters import Parameters

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
Activation = Literal["tanh", "relu"]
CONTEXT = "context"


@dataclass(frozen=True)
class MLP:
    """Weights and biases of a multilayer perceptron, named `layer_i.weight` and `layer_i.bias`."""

    observation_size: int
    outputs: int
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    context_size: int = 0
    """Number of inputs besides the observation: the parameter `context`, which CAVIA adapts."""
    normaliser: ObservationNormaliser | None = None
    """Normalises the observations before the first layer."""
    images: Observations | None = None
    """Observations with images, whose bytes are divided before the first layer."""

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the parameters after the last hidden layer."""
        last = f"layer_{len(self.hidden_sizes)}"
        return (f"{last}.weight", f"{last}.bias")

    @property
    def fresh(self) -> Parameters:
        """The context, 0 for every task."""
        return {CONTEXT: torch.zeros(self.context_size)} if self.context_size else {}

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """Glorot-uniform weights [in, out] and zero biases [out], float32, without the context."""
        inputs = self.observation_size + self.context_size
        sizes = (inputs, *self.hidden_sizes, self.outputs)
        parameters = {}
        for i, (n_in, n_out) in enumerate(pairwise(sizes)):
            bound = math.sqrt(6 / (n_in + n_out))
            weight = generator.uniform(-bound, bound, (n_in, n_out)).astype(np.float32)
            parameters[f"layer_{i}.weight"] = torch.from_numpy(weight)
            parameters[f"layer_{i}.bias"] = torch.zeros(n_out)
        return parameters

    def buffers(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Does nothing."""

    def output(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """The last layer's output: [tasks, ..., outputs]."""
        activation = ACTIVATIONS[self.activation]
        last = len(self.hidden_sizes)
        x = observations.flatten(1, -2)  # [tasks, rows, observation]
        if x.dtype == torch.uint8:
            x = x.float()
        if self.normaliser is not None:
            x = self.normaliser(x)
        elif self.images is not None:
            x = self.images.scaled(x)
        if self.context_size:
            context = parameters[CONTEXT].unsqueeze(1).expand(-1, x.shape[1], -1)
            x = torch.cat([x, context], -1)
        for i in range(last + 1):
            bias = parameters[f"layer_{i}.bias"].unsqueeze(1)
            x = torch.baddbmm(bias, x, parameters[f"layer_{i}.weight"])
            x = x if i == last else activation(x)
        return x.reshape(*observations.shape[:-1], -1)
