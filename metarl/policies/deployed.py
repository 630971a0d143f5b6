"""Policies and modules adapted to one task, as torch modules between an environment's spaces."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from metarl.policies.action_units import ActionUnits, native_actions
from metarl.policies.actions import LOG_STD, Actions, DiscreteActions, MultiDiscreteActions
from metarl.policies.export import DeployedPolicy
from metarl.policies.mlp import CONTEXT, MLP
from metarl.policies.module_network import ModuleNetwork
from metarl.policies.modules import LAYERS
from metarl.policies.normalisation import ObservationNormaliser
from metarl.policies.observations import Observations, expect_observation
from metarl.policies.policy import Policy
from metarl.policies.recurrent import RecurrentPolicy, read
from metarl.support.errors import UsageError
from metarl.support.forms import form_of
from metarl.support.types import Space

REWARD = gymnasium.spaces.Box(-np.inf, np.inf, ())


@dataclass(frozen=True)
class Interface:
    """What lies between a policy and an environment."""

    actions: Actions
    observation_space: Space
    action_space: Space
    units: ActionUnits
    task: Tensor | None = None
    """What an oracle sees of the task after the observation: [n]."""

    def std(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """σ of continuous actions in the environment's units: [action]."""
        if LOG_STD not in parameters:
            return None
        std = parameters[LOG_STD].exp()
        return std if self.units.factor is None else std * self.units.factor.to(std)


class NetworkPolicy(DeployedPolicy):
    """A policy between the spaces of an environment.

    Observations of `forward` are flat, as `gymnasium.spaces.flatten` makes them; those of `act` are
    the environment's. Actions of `forward` are flat too, in the environment's units.
    """

    low: Tensor
    high: Tensor

    def __init__(self, interface: Interface):
        super().__init__()
        self.actions, self.units = interface.actions, interface.units
        self.observations = Observations.of(interface.observation_space)
        self.action_space = interface.action_space
        if isinstance(self.action_space, gymnasium.spaces.Box):
            for name, end in (("low", self.action_space.low), ("high", self.action_space.high)):
                self.register_buffer(name, torch.from_numpy(np.ravel(end)), persistent=False)

    def act(self, observation: Any, reward: float) -> int | np.ndarray:
        """The most likely action."""
        with torch.no_grad():
            return self.native(self(self.row(observation)))

    def most_likely(self, output: Tensor) -> Tensor:
        """A network's output [n, outputs] -> actions in the environment's units."""
        if not self.actions.is_discrete:
            return self.rounded(self.units.to_environment(output))
        return self.units.to_environment(self.actions.distribution(output, {}).mode())

    def rounded(self, actions: Tensor) -> Tensor:
        """Whole numbers where the action space is a Box of integers."""
        whole = np.issubdtype(self.action_space.dtype, np.integer)
        return actions.round() if whole and actions.is_floating_point() else actions

    def row(self, observation: Any) -> Tensor:
        """The observation of one environment: [1, observation]."""
        expect_observation(self.observations.space, observation)
        return torch.from_numpy(self.observations.flat(observation)).float().unsqueeze(0)

    def native(self, actions: Tensor) -> int | np.ndarray:
        """The action of one environment [1, ...] in the form that it expects."""
        action = native_actions(self.action_space, actions.numpy())[0]
        is_number = isinstance(self.action_space, gymnasium.spaces.Discrete)
        return int(action) if is_number else np.asarray(action)

    @property
    def about_actions(self) -> dict[str, object]:
        """The entries of policy.json on the actions."""
        if isinstance(self.actions, DiscreteActions):
            return {"action": "number", "actions": self.actions.outputs}
        if isinstance(self.actions, MultiDiscreteActions):
            return {"action": "numbers", "actions": list(self.actions.options)}
        return {"action": "continuous", "low": self.low.tolist(), "high": self.high.tolist()}


class ReactivePolicy(NetworkPolicy):
    """A policy without a memory: it sees the observation, and that of an oracle also the task."""

    task: Tensor | None
    mean: Tensor | None
    deviation: Tensor | None

    def __init__(
        self,
        interface: Interface,
        parameters: Mapping[str, Tensor],
        normaliser: ObservationNormaliser | None,
    ):
        super().__init__(interface)
        self.std = interface.std(parameters)
        mean = deviation = None
        if normaliser is not None:
            mean, deviation = (m.clone() for m in normaliser.moments(torch.device("cpu")))
        for name, value in (("task", interface.task), ("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, value)

    def seen(self, observations: Tensor) -> Tensor:
        """What the network had in training of observations [n, observation].

        Folded into the first layer, the normalisation would be a difference of two numbers |mean| /
        deviation times as large as itself, both rounded to float32.
        """
        seen = observations
        if self.task is not None:
            seen = torch.cat([seen, self.task.expand(seen.shape[0], -1)], -1)
        if self.mean is None or self.deviation is None:
            return seen
        return (seen - self.mean) / self.deviation

    @property
    def about_observations(self) -> dict[str, Tensor]:
        """The tensors of policy.safetensors that `seen` uses."""
        every = {"task": self.task, "mean": self.mean, "deviation": self.deviation}
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    @property
    def about_policy(self) -> dict[str, object]:
        """The entries of policy.json on observations, actions and σ of the policy in training."""
        std = {} if self.std is None else {"std": self.std.tolist()}
        return {"observation_size": self.observations.size, **self.about_actions, **std}

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Observations."""
        return (torch.zeros(rows, self.observations.size),)


class FeedforwardPolicy(ReactivePolicy):
    """A multilayer perceptron: `network` is a `Sequential` of `Linear` layers and activations.

    The first layer includes a context (CAVIA) or the division of images, and the last layer the
    units of the actions. Its inputs are those of `seen`.
    """

    def __init__(self, mlp: MLP, parameters: Mapping[str, Tensor], interface: Interface):
        """`parameters` are those of one task, without a task dimension."""
        super().__init__(interface, parameters, mlp.normaliser)
        layers: list[nn.Module] = []
        last = len(mlp.hidden_sizes)
        for i in range(last + 1):
            weight, bias = parameters[f"layer_{i}.weight"], parameters[f"layer_{i}.bias"]
            if i == 0:
                weight, bias = _first_layer(mlp, parameters)
            if i == last and self.units.factor is not None and self.units.centre is not None:
                factor, centre = self.units.factor.to(weight), self.units.centre.to(weight)
                weight, bias = weight * factor, bias * factor + centre
            layer = nn.Linear(*weight.shape)
            layer.load_state_dict({"weight": weight.T, "bias": bias})
            layers += [layer] if i == last else [layer, LAYERS[mlp.activation]()]
        self.network = nn.Sequential(*layers)

    def forward(self, observations: Tensor) -> Tensor:
        """Observations [n, observation] -> actions [n, action], or [n] for a Discrete space."""
        outputs: Tensor = self.network(self.seen(observations))
        if self.actions.is_discrete:
            return self.most_likely(outputs)
        return self.rounded(outputs.clamp(self.low, self.high))

    def weights(self) -> dict[str, Tensor]:
        """Those of the `Sequential` whose layers the description lists, and of its inputs."""
        return {**self.network.state_dict(), **self.about_observations}

    def description(self) -> dict[str, object]:
        """Layers, sizes, bounds of the actions, and σ of the policy in training."""
        return {"layers": [_described(layer) for layer in self.network], **self.about_policy}


def _first_layer(mlp: MLP, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight [in, out] and bias of the first layer without inputs for a context, for bytes."""
    weight, bias = parameters["layer_0.weight"], parameters["layer_0.bias"]
    if mlp.context_size:
        rows = mlp.observation_size
        weight, bias = weight[:rows], bias + parameters[CONTEXT] @ weight[rows:]
    if mlp.normaliser is None and mlp.images is not None:
        weight = weight / mlp.images.divisors(weight.device).unsqueeze(-1)
    return weight, bias


class ModulePolicy(ReactivePolicy):
    """A torch module with adapted parameters; `module` takes observations in the space's form."""

    def __init__(
        self, network: ModuleNetwork, parameters: Mapping[str, Tensor], interface: Interface
    ):
        """`parameters` are those of one task, without a task dimension."""
        super().__init__(interface, parameters, network.normaliser)
        self.name = network.name
        self.form = network.observations  # with the task that an oracle sees
        self.form.divisors(torch.device("cpu"))  # made here, not within an export's trace
        self.module = copy.deepcopy(network.module)
        own = {name: parameters[name] for name, _ in self.module.named_parameters()}
        self.module.load_state_dict(own, strict=False)

    def forward(self, observations: Tensor) -> Tensor:
        """Observations [n, observation] -> actions [n, action], or [n] for a Discrete space."""
        seen = self.seen(observations)
        if self.mean is None:
            seen = self.form.scaled(seen)
        return self.most_likely(self.module(self.form.structured(seen)))

    def weights(self) -> dict[str, Tensor]:
        """Those of the module, under its names, and of its inputs."""
        return {**self.module.state_dict(), **self.about_observations}

    def description(self) -> dict[str, object]:
        """The class, the size of an observation, and the actions."""
        return {"module": self.name, **self.about_policy}


def deployed(
    policy: Policy, parameters: Mapping[str, Tensor], interface: Interface
) -> DeployedPolicy:
    """The policy under the parameters of one task, without a task dimension."""
    if isinstance(policy.network, ModuleNetwork):
        return ModulePolicy(policy.network, parameters, interface)
    assert isinstance(policy.network, MLP)
    return FeedforwardPolicy(policy.network, parameters, interface)


class RecurrentDeployedPolicy(NetworkPolicy):
    """One step of a recurrent policy, whose memory of the task is an input and an output."""

    results = ("action", "next_actions", "next_hidden")
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: RecurrentPolicy,
        hidden: Tensor,
        action: Tensor,
        reward: float,
        interface: Interface,
    ):
        """`hidden` [hidden], `action` [action] and `reward` are the memory of the task."""
        super().__init__(interface)
        # A cell, because exporting a layer that runs over sequences copies its weights.
        self.cell = nn.GRUCell(network.gru.input_size, network.gru.hidden_size)
        weights = network.gru.state_dict().items()
        self.cell.load_state_dict({name.removesuffix("_l0"): w for name, w in weights})
        self.actor = copy.deepcopy(network.actor)
        self.encoder, self.form = copy.deepcopy(network.encoder), network.form
        mean, std = network.seen.moments
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.requires_grad_(False)
        self._adapted = (hidden.clone(), action.clone(), torch.tensor([[reward]]))
        self._remembered = self._adapted
        self._began = 1.0

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
        seen = torch.cat([observations, rewards], -1)
        seen = read(seen, self.mean, self.std, self.encoder, self.form)
        later = self.cell(torch.cat([seen, actions, began], -1), hidden)
        output = self.actor(later)
        mode = output
        if self.actions.is_discrete:
            mode = self.actions.distribution(output, {}).mode()
        in_units = self.rounded(self.units.to_environment(mode))
        return in_units, self.actions.shown(mode), later

    def begin(self) -> None:
        """Begins an episode; what the policy remembers of the task stays."""
        self._began = 1.0

    @property
    def needs_reward(self) -> bool:
        """At the first call of all, the memory has it."""
        return self._remembered is not self._adapted

    def act(self, observation: Any, reward: float) -> int | np.ndarray:
        """The most likely action; the next call continues from the memory after it."""
        hidden, action, last = self._remembered
        if self.needs_reward:
            expect_observation(REWARD, reward, "the reward")
            last = torch.tensor([[reward]], dtype=torch.float32)
        began = torch.tensor([[self._began]])
        with torch.no_grad():
            mode, shown, hidden = self(
                self.row(observation), last, action[None], began, hidden[None]
            )
        self._remembered, self._began = (hidden[0], shown[0], last), 0.0
        return self.native(mode)

    def weights(self) -> dict[str, Tensor]:
        """Weights of the cell and the head, moments of the inputs, and the memory as `memory.*`.

        The memory is that after adaptation, whatever the policy has done since.
        """
        hidden, action, reward = self._adapted
        memory = {"memory.hidden": hidden, "memory.action": action, "memory.reward": reward[0]}
        return {**self.state_dict(), **memory}

    def description(self) -> dict[str, object]:
        """The kind of the cell, sizes, and bounds of the actions."""
        return {
            "recurrent": ["GRUCell", self.cell.input_size, self.cell.hidden_size],
            "observation_size": self.observations.size,
            **self.about_actions,
        }

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Zeros for the five arguments of `forward`."""
        sizes = (self.observations.size, 1, self.actor.out_features, 1, self.cell.hidden_size)
        return tuple(torch.zeros(rows, size) for size in sizes)


class DeployedModule(DeployedPolicy):
    """A module of a supervised task: its outputs are its actions."""

    results = ("outputs",)

    def __init__(self, module: nn.Module, shape: Sequence[int], dtype: torch.dtype):
        """`shape` and `dtype` are those of one input."""
        super().__init__()
        self.module = module.requires_grad_(False)
        self._shape, self._dtype = tuple(shape), dtype

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [n, ...] -> outputs [n, ...]."""
        outputs: Tensor = self.module(inputs)
        return outputs

    @torch.no_grad()
    def outputs(self, inputs: npt.ArrayLike) -> Tensor:
        """The outputs of inputs [..., *shape], tensors or arrays.

        Raises:
            UsageError: they have another shape or type.

        """
        try:
            tensor = torch.as_tensor(inputs if isinstance(inputs, Tensor) else np.asarray(inputs))
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(
                f"inputs must be a tensor or an array, not {form_of(inputs)}"
            ) from None
        outputs: Tensor = self(tensor)
        return outputs

    def act(self, observation: npt.ArrayLike, reward: float) -> np.ndarray:
        """The outputs of one input."""
        array: np.ndarray = self.outputs(observation).numpy()
        return array

    def weights(self) -> dict[str, Tensor]:
        """The state of the module."""
        return self.module.state_dict()

    def description(self) -> dict[str, object]:
        """The class of the module and the shape of an input."""
        return {"module": type(self.module).__name__, "input_shape": self._shape}

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Inputs of zeros."""
        return (torch.zeros(rows, *self._shape, dtype=self._dtype),)


def _described(layer: nn.Module) -> list[object]:
    """The class of the layer in torch.nn and its arguments."""
    if isinstance(layer, nn.Linear):
        return ["Linear", layer.in_features, layer.out_features]
    return [type(layer).__name__]
