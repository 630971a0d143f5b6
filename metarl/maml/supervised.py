"""The same inner loop on supervised few-shot tasks, for any `torch.nn.Module`.

A task is a support set to adapt on and a query set to be judged on. `module_objective` makes a
module and a loss an objective of the inner loop; `FewShotObjective` is the meta-objective that the
outer loops improve.
"""

import copy
import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarl.maml.inner_loop import InnerLoop, Objective
from metarl.policies.parameters import Parameters
from metarl.support.parallel import Shard, Workers
from metarl.tasks.samples import Samples

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [samples, ...], targets [samples, ...]) of one task -> a scalar."""


def initial_parameters(module: nn.Module) -> Parameters:
    """The module's own parameters, detached, without a task dimension."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def module_outputs(module: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The module's outputs for every task under its own parameters: [tasks, samples, ...].

    A module with state (running statistics) must not change it: use `track_running_stats=False`.
    Torch's recurrent layers cannot be batched over their weights; with them it is one task after
    the other.
    """
    own = {name: parameters[name] for name, _ in module.named_parameters()}
    if threading.current_thread() is not threading.main_thread():
        # `functional_call` puts the parameters into the module for the time of the call, so that
        # threads cannot share it: each call has a copy, which shares the tensors.
        tensors = [*module.parameters(), *module.buffers()]
        module = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})

    def of_task(of_own: Parameters, of_inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(module, of_own, (of_inputs,))
        return outputs

    if any(isinstance(part, (nn.RNNBase, nn.RNNCellBase)) for part in module.modules()):
        each = zip(*own.values(), inputs, strict=True)
        return torch.stack([of_task(dict(zip(own, ps, strict=True)), x) for *ps, x in each])
    outputs: Tensor = torch.vmap(of_task, randomness="different")(own, inputs)
    return outputs


def module_objective(module: nn.Module, loss: Loss) -> Objective:
    """What the inner loop maximises: −loss of the module on the samples, [tasks]."""

    def objective(parameters: Mapping[str, Tensor], samples: Samples) -> Tensor:
        outputs = module_outputs(module, parameters, samples.inputs)
        return -torch.vmap(loss)(outputs, samples.targets)

    return objective


class FewShotObjective:
    """θ -> −mean_i loss_i(θ'_i(θ)) on the query sets, after K inner steps on the support sets.

    It has what the outer loops ask for: `value`, `gradient` and `displacement`; the KL is 0.
    """

    def __init__(
        self,
        inner: InnerLoop,
        support: Samples,
        query: Samples,
        steps: int,
        parameters: Mapping[str, Tensor],
        workers: Workers,
        shard: Shard | None = None,
    ):
        """`parameters`: θ, without a task dimension; `shard`: which of all tasks the sets are."""
        self._inner = inner
        self._steps = steps
        self._parameters = dict(parameters)
        self._workers = workers
        self._shard = shard or Shard.whole(query.tasks, query.rows, query.device)
        self._tasks = self._shard.total
        self._chunks = [(support[s], query[s]) for s in self._shard.slices]

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(−loss, 0) at θ."""
        (value,) = self._workers.sum(
            lambda chunk: (self._term(parameters, *chunk).detach(),),
            self._chunks,
            self._shard,
        )
        return value.item(), 0.0

    def gradient(self, parameters: Mapping[str, Tensor]) -> tuple[float, Parameters]:
        """(−loss, its gradient) at θ, through the inner loop."""

        def of_chunk(chunk: tuple[Samples, Samples]) -> tuple[Tensor, ...]:
            theta = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
            with torch.enable_grad():
                term = self._term(theta, *chunk, create_graph=True)
            gradients = torch.autograd.grad(
                term, tuple(theta.values()), allow_unused=True, materialize_grads=True
            )
            return (term.detach(), *gradients)

        value, *gradients = self._workers.sum(of_chunk, self._chunks, self._shard)
        return value.item(), dict(zip(parameters, gradients, strict=True))

    def displacement(self) -> Parameters:
        """mean_i θ'_i − θ."""

        def of_chunk(chunk: tuple[Samples, Samples]) -> tuple[Tensor, ...]:
            adapted = self._adapted(self._parameters, chunk[0])
            return tuple(adapted[name].sum(0) for name in self._parameters)

        totals = self._workers.sum(of_chunk, self._chunks, self._shard)
        return {
            name: total / self._tasks - p
            for (name, p), total in zip(self._parameters.items(), totals, strict=True)
        }

    def _adapted(
        self, parameters: Mapping[str, Tensor], support: Samples, create_graph: bool = False
    ) -> Parameters:
        begin = self._inner.begin(parameters, support.tasks)
        return self._inner.path(begin, [support] * self._steps, create_graph)[-1]

    def _term(
        self,
        parameters: Mapping[str, Tensor],
        support: Samples,
        query: Samples,
        create_graph: bool = False,
    ) -> Tensor:
        adapted = self._adapted(parameters, support, create_graph)
        return self._inner.objective(adapted, query).sum() / self._tasks


def query_outputs(
    inner: InnerLoop,
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    support: Samples,
    query: Samples,
    steps: int,
) -> list[Tensor]:
    """Outputs on the query sets after 0, 1, ... `steps` inner steps: [tasks, samples, ...] each."""
    path = inner.path(inner.begin(parameters, support.tasks), [support] * steps)
    with torch.no_grad():
        return [module_outputs(module, p, query.inputs) for p in path]
