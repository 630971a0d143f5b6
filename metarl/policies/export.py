"""A policy to take away: plain weights, a description, and a program that runs without metarl."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import gymnasium
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from metarl.policies.action_units import ActionUnits
from metarl.policies.mlp import CONTEXT, CategoricalPolicy, GaussianPolicy
from metarl.policies.recurrent import RecurrentPolicy, normalised
from metarl.support.files import replace_durably
from metarl.support.types import Space

WEIGHTS, DESCRIPTION, PROGRAM = "policy.safetensors", "policy.json", "policy.pt2"
LAYERS = {"tanh": nn.Tanh, "relu": nn.ReLU}

Json = Mapping[str, object]


class DeployedPolicy(nn.Module):
    """The most likely action of an adapted policy, as a torch module that needs no metarl."""

    @abstractmethod
    def act(self, observation: np.ndarray, reward: float) -> int | np.ndarray:
        """The action for one environment's observation; `reward` is that of the step before."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """What policy.safetensors holds."""

    @abstractmethod
    def description(self) -> dict[str, object]:
        """What policy.json says of the weights, the observations and the actions."""

    @abstractmethod
    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Arguments of `forward` for `rows` environments, each with the rows first."""


class FeedforwardPolicy(DeployedPolicy):
    """A multilayer perceptron: `network` is a `Sequential` of `Linear` layers and activations.

    A context (CAVIA) and normalised observations are part of the first layer, and the units of the
    actions of the last one: observations and actions are the environment's own.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        policy: GaussianPolicy | CategoricalPolicy,
        parameters: Mapping[str, Tensor],
        action_space: Space,
        units: ActionUnits,
    ):
        """`parameters`: of one task, without a task dimension."""
        super().__init__()
        layers: list[nn.Module] = []
        last = len(policy.hidden_sizes)
        self.std = parameters["log_std"].exp() if "log_std" in parameters else None
        for i in range(last + 1):
            weight, bias = parameters[f"layer_{i}.weight"], parameters[f"layer_{i}.bias"]
            if i == 0 and policy.context_size:
                rows = policy.observation_size
                weight, bias = weight[:rows], bias + parameters[CONTEXT] @ weight[rows:]
            if i == 0 and policy.normaliser is not None:
                mean, std = policy.normaliser.moments(weight.device)
                weight = weight / std.unsqueeze(-1)
                bias = bias - mean @ weight
            if i == last and units.factor is not None and units.centre is not None:
                factor = units.factor.to(weight)
                weight, bias = weight * factor, bias * factor + units.centre.to(weight)
                self.std = None if self.std is None else self.std * factor
            layer = nn.Linear(*weight.shape)
            layer.load_state_dict({"weight": weight.T, "bias": bias})
            layers += [layer] if i == last else [layer, LAYERS[policy.activation]()]
        self.network = nn.Sequential(*layers)
        self.discrete = isinstance(policy, CategoricalPolicy)
        if isinstance(action_space, gymnasium.spaces.Box):
            self.register_buffer("low", torch.from_numpy(action_space.low), persistent=False)
            self.register_buffer("high", torch.from_numpy(action_space.high), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """Observations [n, observation] -> actions [n, action], or [n] where they are numbered."""
        outputs: Tensor = self.network(observations)
        return outputs.argmax(-1) if self.discrete else outputs.clamp(self.low, self.high)

    def act(self, observation: np.ndarray, reward: float) -> int | np.ndarray:
        """The most likely action."""
        row = torch.from_numpy(np.asarray(observation, np.float32)).reshape(1, -1)
        with torch.no_grad():
            return one_action(self(row)[0], self.discrete)

    def weights(self) -> dict[str, Tensor]:
        """Those of the `Sequential` of the layers that the description lists."""
        return self.network.state_dict()

    def description(self) -> dict[str, object]:
        """Layers, sizes, bounds of the actions and σ of the exploration."""
        linear = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        about: dict[str, object] = {
            "layers": [_described(layer) for layer in self.network],
            "observation_size": linear[0].in_features,
            "action": "number" if self.discrete else "continuous",
        }
        if self.discrete or self.std is None:
            return about | {"actions": linear[-1].out_features}
        bounds = {"low": self.low.tolist(), "high": self.high.tolist()}
        return about | bounds | {"std": self.std.tolist()}

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Observations."""
        first = next(layer for layer in self.network if isinstance(layer, nn.Linear))
        return (torch.zeros(rows, first.in_features),)


class RecurrentDeployedPolicy(DeployedPolicy):
    """One step of a recurrent policy: what it remembers of the task goes in and comes out."""

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: RecurrentPolicy,
        hidden: Tensor,
        action: Tensor,
        reward: float,
        action_space: Space,
        units: ActionUnits,
    ):
        """`hidden` [hidden], `action` [action] and `reward`: what is remembered of the task."""
        super().__init__()
        # A cell, because exporting a layer that runs over sequences copies its weights.
        self.cell = nn.GRUCell(network.gru.input_size, network.gru.hidden_size)
        weights = network.gru.state_dict().items()
        self.cell.load_state_dict({name.removesuffix("_l0"): w for name, w in weights})
        self.actor = network.actor
        mean, std = network.seen.moments
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.discrete = network.is_discrete
        self._units = units
        self._remembered = (hidden.clone(), action.clone(), torch.tensor([[reward]]))
        self._began = 1.0
        if isinstance(action_space, gymnasium.spaces.Box):
            self.register_buffer("low", torch.from_numpy(action_space.low), persistent=False)
            self.register_buffer("high", torch.from_numpy(action_space.high), persistent=False)

    def forward(
        self, observations: Tensor, rewards: Tensor, actions: Tensor, began: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The most likely actions, the same as the next input has them, and the hidden state.

        Args:
            observations: [n, observation].
            rewards, began: [n, 1]: of the step before; 1 where an episode has just begun, else 0.
            actions: [n, action], of the step before as it came out, or one-hot.
            hidden: [n, hidden].

        """
        seen = normalised(torch.cat([observations, rewards], -1), self.mean, self.std)
        later = self.cell(torch.cat([seen, actions, began], -1), hidden)
        output = self.actor(later)
        if self.discrete:
            mode = output.argmax(-1)
            return mode, nn.functional.one_hot(mode, output.shape[-1]).float(), later
        return self._units.to_environment(output), output, later

    def act(self, observation: np.ndarray, reward: float) -> int | np.ndarray:
        """The most likely action, remembered for the next call."""
        hidden, action, last = self._remembered
        if not self._began:
            last = torch.tensor([[reward]], dtype=torch.float32)
        row = torch.from_numpy(np.asarray(observation, np.float32)).reshape(1, -1)
        began = torch.tensor([[self._began]])
        with torch.no_grad():
            mode, shown, hidden = self(row, last, action[None], began, hidden[None])
        self._remembered, self._began = (hidden[0], shown[0], last), 0.0
        return one_action(mode[0], self.discrete)

    def weights(self) -> dict[str, Tensor]:
        """The cell's, the heads', moments of the inputs, and what is remembered: `memory.*`."""
        hidden, action, reward = self._remembered
        memory = {"memory.hidden": hidden, "memory.action": action, "memory.reward": reward[0]}
        return {**self.state_dict(), **memory}

    def description(self) -> dict[str, object]:
        """Kind and sizes, and bounds of the actions."""
        about: dict[str, object] = {
            "recurrent": ["GRUCell", self.cell.input_size, self.cell.hidden_size],
            "observation_size": self.observation_size,
            "action": "number" if self.discrete else "continuous",
        }
        if self.discrete:
            return about | {"actions": self.actor.out_features}
        return about | {"low": self.low.tolist(), "high": self.high.tolist()}

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Of the five arguments of `forward`."""
        sizes = (self.observation_size, 1, self.actor.out_features, 1, self.cell.hidden_size)
        return tuple(torch.zeros(rows, size) for size in sizes)

    @property
    def observation_size(self) -> int:
        """Numbers of an observation."""
        return self.cell.input_size - 2 - self.actor.out_features


def one_action(action: Tensor, discrete: bool) -> int | np.ndarray:
    """One action [action] as an environment takes it."""
    if discrete:
        return int(action)
    array: np.ndarray = action.numpy()
    return array


def export_policy(policy: DeployedPolicy, folder: Path, about: Json) -> list[Path]:
    """Writes the weights, the description and the program into the folder.

    - `policy.safetensors`: the weights, as the description names them.
    - `policy.json`: layers, bounds of the actions, σ of the exploration, and `about`.
    - `policy.pt2`: `torch.export.load(path).module()` is `policy.forward`; with a multilayer
      perceptron it maps observations [n, observation], float32, to actions.

    Returns:
        The files.

    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, text, program = (folder / name for name in (WEIGHTS, DESCRIPTION, PROGRAM))
    own = {
        n: p.detach().clone(memory_format=torch.contiguous_format)
        for n, p in policy.weights().items()
    }
    save_file(own, weights)
    description = {**policy.description(), **about}
    replace_durably(text, (json.dumps(description, indent=2) + "\n").encode())
    # Two rows: a size of 1 would be taken for a constant.
    example = policy.example(2)
    rows = torch.export.Dim("n")
    exported = torch.export.export(
        policy, example, dynamic_shapes=tuple({0: rows} for _ in example)
    )
    torch.export.save(exported, program)
    return [weights, text, program]


def _described(layer: nn.Module) -> list[object]:
    """The layer's class in torch.nn and its arguments."""
    if isinstance(layer, nn.Linear):
        return ["Linear", layer.in_features, layer.out_features]
    return [type(layer).__name__]
