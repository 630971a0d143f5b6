"""Export of a policy: weights, a description, and a program that runs without metarl."""

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


class DeployedPolicy(nn.Module):
    """An adapted policy that takes its most likely action, as a torch module."""

    @abstractmethod
    def act(self, observation: np.ndarray, reward: float) -> int | np.ndarray:
        """The action for an observation of one environment and the reward of the previous step."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The tensors of policy.safetensors."""

    @abstractmethod
    def description(self) -> dict[str, object]:
        """The entries of policy.json on the weights, the observations and the actions."""

    @abstractmethod
    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Arguments of `forward` for `rows` environments, each with a leading [rows] dimension."""


class FeedforwardPolicy(DeployedPolicy):
    """A multilayer perceptron: `network` is a `Sequential` of `Linear` layers and activations.

    The first layer includes a context (CAVIA) and the normalisation of observations, and the last
    layer includes the units of the actions: observations and actions are those of the environment.
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
        """`parameters` are those of one task, without a task dimension."""
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
        """Observations [n, observation] -> actions [n, action], or [n] if they are discrete."""
        outputs: Tensor = self.network(observations)
        return outputs.argmax(-1) if self.discrete else outputs.clamp(self.low, self.high)

    def act(self, observation: np.ndarray, reward: float) -> int | np.ndarray:
        """The most likely action."""
        row = torch.from_numpy(np.asarray(observation, np.float32)).reshape(1, -1)
        with torch.no_grad():
            return one_action(self(row)[0], self.discrete)

    def weights(self) -> dict[str, Tensor]:
        """The weights of the `Sequential` whose layers the description lists."""
        return self.network.state_dict()

    def description(self) -> dict[str, object]:
        """Layers, sizes, bounds of the actions, and σ of the policy in training."""
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
    """One step of a recurrent policy, whose memory of the task is an input and an output."""

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
        """`hidden` [hidden], `action` [action] and `reward` are the memory of the task."""
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
        """The most likely actions, the actions in the form of the next input, and the hidden state.

        Args:
            observations: [n, observation].
            rewards: [n, 1], of the previous step.
            began: [n, 1], 1 at the first step of an episode, otherwise 0.
            actions: [n, action], of the previous step, as `forward` returned them second.
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
        """The most likely action; the next call continues from the memory after it."""
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
        """Weights of the cell and the head, moments of the inputs, and the memory as `memory.*`."""
        hidden, action, reward = self._remembered
        memory = {"memory.hidden": hidden, "memory.action": action, "memory.reward": reward[0]}
        return {**self.state_dict(), **memory}

    def description(self) -> dict[str, object]:
        """The kind of the cell, sizes, and bounds of the actions."""
        about: dict[str, object] = {
            "recurrent": ["GRUCell", self.cell.input_size, self.cell.hidden_size],
            "observation_size": self.observation_size,
            "action": "number" if self.discrete else "continuous",
        }
        if self.discrete:
            return about | {"actions": self.actor.out_features}
        return about | {"low": self.low.tolist(), "high": self.high.tolist()}

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Zeros for the five arguments of `forward`."""
        sizes = (self.observation_size, 1, self.actor.out_features, 1, self.cell.hidden_size)
        return tuple(torch.zeros(rows, size) for size in sizes)

    @property
    def observation_size(self) -> int:
        """Size of an observation."""
        return self.cell.input_size - 2 - self.actor.out_features


def one_action(action: Tensor, discrete: bool) -> int | np.ndarray:
    """One action [action] in the form that an environment expects."""
    if discrete:
        return int(action)
    array: np.ndarray = action.numpy()
    return array


def export_policy(policy: DeployedPolicy, folder: Path, about: Mapping[str, object]) -> list[Path]:
    """Writes the weights, the description and the program into the folder.

    - `policy.safetensors`: the weights, under the names of the description.
    - `policy.json`: the description (layers, bounds and σ of the actions), and `about`.
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
    """The class of the layer in torch.nn and its arguments."""
    if isinstance(layer, nn.Linear):
        return ["Linear", layer.in_features, layer.out_features]
    return [type(layer).__name__]
