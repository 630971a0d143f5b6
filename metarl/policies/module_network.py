"""Any torch module as a network: one function of its parameters, for all tasks at once."""

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarl.policies.normalisation import ObservationNormaliser
from metarl.policies.observations import Observations, Structured
from metarl.policies.parameters import Parameters


def initial_parameters(module: nn.Module) -> Parameters:
    """The module's own parameters, detached, without a task dimension."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def replace_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Gives the module copies of these in place of its buffers of the same names."""
    for name, values in buffers.items():
        place, _, own = name.rpartition(".")
        setattr(module.get_submodule(place), own, values.to(module.get_buffer(name), copy=True))


def own_copy(module: nn.Module) -> nn.Module:
    """The module, or in another thread than the main one a copy, which shares the tensors.

    `functional_call` puts the parameters into the module for the time of the call, so that threads
    cannot share it.
    """
    if threading.current_thread() is threading.main_thread():
        return module
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def module_outputs(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    form: Callable[[Tensor], Any] = lambda rows: rows,
    one_by_one: bool = False,
) -> Tensor:
    """The module's outputs for every task under its own parameters: [tasks, rows, ...].

    A module with state (running statistics) must not change it: use `track_running_stats=False`.
    Torch's recurrent layers cannot be batched over their weights; with them it is one task after
    the other.

    Args:
        parameters: [tasks, ...] each.
        inputs: [tasks, rows, ...].
        form: what the module is given of the rows of a task.
        one_by_one: compute one task after the other for any module.

    """
    own = {name: parameters[name] for name, _ in module.named_parameters()}
    module = own_copy(module)

    def of_task(of_own: Parameters, rows: Tensor) -> Tensor:
        outputs: Tensor = functional_call(module, of_own, (form(rows),))
        return outputs

    recurrent = (isinstance(part, (nn.RNNBase, nn.RNNCellBase)) for part in module.modules())
    if one_by_one or any(recurrent):
        each = ({n: _laid_out(p[i]) for n, p in own.items()} for i in range(len(inputs)))
        return torch.stack(
            [of_task(of_own, _laid_out(x)) for of_own, x in zip(each, inputs, strict=True)]
        )
    outputs: Tensor = torch.vmap(of_task, randomness="different")(own, inputs)
    return outputs


def _laid_out(tensor: Tensor) -> Tensor:
    """A copy: the last bits of a product depend on where and how its factors lie in memory."""
    return tensor.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class ModuleNetwork:
    """A module class with its arguments."""

    name: str
    """As --policy has it."""
    make: Callable[[], nn.Module]
    observations: Observations
    normaliser: ObservationNormaliser | None = None
    adapts_context: bool = False
    """Whether the parameters that the module calls its context are no part of θ."""
    one_by_one: bool = False
    """Whether the module cannot be batched over tasks."""
    module: nn.Module = field(init=False)
    """One module, for its form and its buffers; its own parameters are not used."""
    _on_devices: dict[torch.device, nn.Module] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            object.__setattr__(self, "module", self.make().eval().requires_grad_(False))

    @property
    def observation_size(self) -> int:
        """Numbers of a flat observation."""
        return self.observations.size

    @property
    def head(self) -> tuple[str, ...]:
        """What the module calls its head."""
        return tuple(getattr(self.module, "head", ()))

    @property
    def context(self) -> tuple[str, ...]:
        """What the module calls its context."""
        return tuple(getattr(self.module, "context", ()))

    @property
    def fresh(self) -> Parameters:
        """The context with the values of a new module."""
        every = initial_parameters(self.module)
        return {name: every[name] for name in self.context} if self.adapts_context else {}

    def initial_parameters(self, generator: np.random.Generator) -> Parameters:
        """Those of a new module, of which this one takes the buffers."""
        fresh = self.fresh_module(int(generator.integers(2**63)))
        replace_buffers(self.module, dict(fresh.named_buffers()))
        self._on_devices.clear()
        every = initial_parameters(fresh)
        return {name: p for name, p in every.items() if name not in self.fresh}

    def buffers(self) -> dict[str, Tensor]:
        """Those of the module."""
        return dict(self.module.named_buffers())

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Continues with these in place of the module's own."""
        replace_buffers(self.module, buffers)
        self._on_devices.clear()

    def fresh_module(self, seed: int) -> nn.Module:
        """A new module, whose initialisation draws from torch's generator with this seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def output(self, parameters: Mapping[str, Tensor], observations: Tensor) -> Tensor:
        """The module's outputs: [tasks, ..., outputs]."""
        rows = observations.flatten(1, -2)
        module = self._module_on(rows.device)

        def form(of_task: Tensor) -> Structured:
            seen = of_task.float() if of_task.dtype == torch.uint8 else of_task
            scaled = self.observations.scaled if self.normaliser is None else self.normaliser
            return self.observations.structured(scaled(seen))

        # The last bits of batched convolutions depend on how many tasks there are. Where nothing is
        # differentiated, which is where tasks come in any company, each is computed alone.
        one_by_one = self.one_by_one or not torch.is_grad_enabled()
        outputs = module_outputs(module, parameters, rows, form, one_by_one)
        return outputs.reshape(*observations.shape[:-1], -1)

    def _module_on(self, device: torch.device) -> nn.Module:
        """The module with its buffers on a device."""
        if device not in self._on_devices:
            self._on_devices[device] = copy.deepcopy(self.module).to(device)
        return self._on_devices[device]
