"""A policy: a network that reads observations, and the actions that it chooses from."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from torch import Tensor

from metarl.policies.action_distributions import Distribution
from metarl.policies.actions import Actions, make_actions
from metarl.policies.mlp import MLP, Activation
from metarl.policies.module_network import ModuleNetwork
from metarl.policies.modules import MODULES, arguments, choose_policy, expect_stateless
from metarl.policies.normalisation import ObservationNormaliser
from metarl.policies.observations import Observations, has_image
from metarl.policies.parameters import Parameters
from metarl.policies.probe import expect_function_of_rows, failed, tried
from metarl.support.errors import UsageError, hint_of_call
from metarl.support.options import with_truth_values
from metarl.support.randomness import Array, NoiseSource
from metarl.support.types import Space


class Network(Protocol):
    """A pure function of parameters that have a leading [tasks] dimension."""

    @property
    def observation_size(self) -> int:
        """Numbers of a flat observation, and of what follows it."""

    @property
    def normaliser(self) -> ObservationNormaliser | None:
        """What normalises the observations, if anything does."""

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the parameters after the last hidden layer, which ANIL adapts."""

    @property
    def fresh(self) -> Parameters:
        """Parameters that begin alike for every task and are no part of θ: the context of CAVIA."""

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """New parameters without a task dimension, and without those of `fresh`."""

    def buffers(self) -> dict[str, Tensor]:
        """Tensors that are no parameters and that every task shares, by name; no copies."""

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Continues with copies of these."""

    def output(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """Observations [tasks, ..., observation] -> [tasks, ..., outputs]."""


@dataclass(frozen=True)
class Policy:
    """What rollouts, adaptation and objectives use of a policy."""

    network: Network
    actions: Actions

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """New parameters without a task dimension: the network's, then the distribution's own."""
        return {**self.network.initial_parameters(generator), **self.actions.own_parameters}

    @property
    def head(self) -> tuple[str, ...]:
        """The network's head, and the distribution's own parameters."""
        return (*self.network.head, *self.actions.own_parameters)

    @property
    def normaliser(self) -> ObservationNormaliser | None:
        """What normalises the observations, if anything does."""
        return self.network.normaliser

    def distribution(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Distribution:
        """π(· | s) under parameters [tasks, ...] at observations [tasks, ..., observation]."""
        return self.actions.distribution(self.network.output(parameters, observations), parameters)

    def noise(self, generator: NoiseSource, *shape: int) -> Array:
        """Noise for `Distribution.sample`: [*shape, ...]."""
        return self.actions.noise(generator, *shape)


@dataclass(frozen=True)
class PolicyOptions:
    """The options of a run that make a policy."""

    policy: str = "auto"
    """`mlp`, `cnn`, `encoder` or MODULE:CLASS; `auto` chooses by the observations."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the module's class."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    context_size: int = 0
    """Length of the context that CAVIA adapts; 0 if it does not."""
    task_size: int = 0
    """Numbers of the task that follow the observation, for an oracle."""
    normalise: bool = False
    """Whether to normalise the observation and what follows it."""
    differentiates: bool = True
    """Whether what learns the policy needs a gradient by its parameters."""


def make_policy(
    observation_space: Space, action_space: Space, options: PolicyOptions | None = None
) -> Policy:
    """The policy of the options for the spaces.

    Raises:
        UsageError: a space is not supported, or the module does not fit; the message says why.

    """
    options = options or PolicyOptions()
    actions, seen = make_actions(action_space), observation_space
    if options.task_size:
        task = spaces.Box(-np.inf, np.inf, (options.task_size,))
        seen = spaces.Dict(observation=seen, task=task)
    observations = Observations.of(seen)
    normaliser = ObservationNormaliser(observations.size) if options.normalise else None
    chosen = choose_policy(options.policy, observation_space)
    if chosen != "mlp":
        module = module_network(chosen, seen, actions.outputs, options, normaliser)
        if chosen not in MODULES.own:
            expect_function_of_rows(module, actions.outputs, differentiates=options.differentiates)
        return Policy(module, actions)
    if options.options:
        name = next(iter(options.options))
        raise UsageError(f"--policy-options {name}: mlp has none; --hidden-sizes gives its layers")
    network = MLP(
        observations.size,
        actions.outputs,
        options.hidden_sizes,
        options.activation,
        options.context_size,
        normaliser,
        observations if has_image(seen) else None,
    )
    return Policy(network, actions)


def make_encoder(
    observation_space: Space, outputs: int, options: PolicyOptions
) -> ModuleNetwork | None:
    """The module that reads observations before a recurrent core; None if that reads them itself.

    Raises:
        UsageError: the module does not fit; the message says why.

    """
    chosen = choose_policy(options.policy, observation_space)
    if chosen == "mlp":
        return None
    encoder = module_network(chosen, observation_space, outputs, options)
    if chosen not in MODULES.own:  # a core learns, whether its encoder does or not
        expect_function_of_rows(encoder, outputs, training=True, differentiates=False)
    return encoder


def module_network(
    name: str,
    space: Space,
    outputs: int,
    options: PolicyOptions,
    normaliser: ObservationNormaliser | None = None,
) -> ModuleNetwork:
    """The module of a name as a network, tried on two rows of two tasks.

    Raises:
        UsageError: the module cannot be made, fails, or does not do what a policy has to.

    """
    module_class = MODULES.find(name)
    given = arguments(
        module_class,
        hidden_sizes=options.hidden_sizes,
        activation=options.activation,
        context_size=options.context_size,
    )
    make = functools.partial(
        module_class, space, outputs, **{**given, **with_truth_values(options.options)}
    )
    try:
        network = ModuleNetwork(
            name, make, Observations.of(space), normaliser, options.context_size > 0
        )
    except UsageError:
        raise
    except Exception as error:
        hint = hint_of_call(error, module_class)
        raise UsageError(failed(name, "cannot be made", error) + hint) from error
    expect_stateless(network.module, name)
    own = {parameter for parameter, _ in network.module.named_parameters()}
    for declared in ("head", "context"):
        if unknown := set(getattr(network, declared)) - own:
            raise UsageError(
                f"--policy {name}: {declared} names {min(unknown)}, which is no parameter; it has "
                f"{', '.join(sorted(own))}"
            )
    if options.context_size and not network.context:
        raise UsageError(
            f"--adapts context: --policy {name} names no context; give the class "
            '`context = ("name of a parameter", ...)`'
        )
    return tried(network, outputs)
