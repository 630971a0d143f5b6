"""The same inner loop on supervised few-shot tasks, for any `torch.nn.Module`.

A task is a support set to adapt on and a query set to be judged on. `module_objective` makes a
module and a loss an objective of the inner loop; `FewShotObjective` is the meta-objective that the
outer loops improve.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from metarl.maml.inner_loop import InnerLoop, Objective
from metarl.policies.module_network import module_outputs
from metarl.policies.modules import drops_out
from metarl.policies.parameters import Parameters
from metarl.support.errors import UsageError
from metarl.support.finite import expect_finite
from metarl.support.forms import form_of
from metarl.support.parallel import Shard, Workers
from metarl.support.places import described
from metarl.tasks.samples import Samples

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [samples, ...], targets [samples, ...]) of one task -> a scalar."""


def module_objective(module: nn.Module, loss: Loss) -> Objective:
    """What the inner loop maximises: −loss of the module on the samples, [tasks].

    Raises:
        UsageError: the module keeps running statistics, which would mix the tasks, or drops out,
            so that a loss would not be a function of the parameters.

    """
    for path, part in module.named_modules():
        if drops_out(part):
            raise UsageError(
                f"{type(part).__name__} at {path or 'the top'} drops out: the same samples would "
                "have another loss at each call; set its probability to 0"
            )
        if getattr(part, "track_running_stats", False):
            raise UsageError(
                f"{type(part).__name__} at {path or 'the top'} keeps running statistics, which "
                "would mix the tasks: make it with track_running_stats=False, or call "
                "torch.func.replace_all_batch_norm_modules_(module)"
            )

    def objective(parameters: Mapping[str, Tensor], samples: Samples) -> Tensor:
        outputs = module_outputs(module, parameters, samples.inputs)
        losses = torch.vmap(loss)(outputs, samples.targets)
        if outputs.requires_grad and not losses.requires_grad:
            raise UsageError(
                "the loss has no gradient by the outputs of the module, which an inner step "
                "follows: compute it from them, without detach() and no_grad()"
            )
        return -losses

    return objective


def expect_fit(module: nn.Module, loss: Loss, samples: Samples, name: str) -> None:
    """Checks that a module and a loss take the samples of the first of some tasks.

    Args:
        module: what is learned, on the CPU, where a label out of range is a readable error.
        loss: of its outputs.
        samples: [tasks, samples, ...].
        name: of the problem, for the message.

    Raises:
        UsageError: they do not.

    """
    inputs, targets = samples.inputs[0].cpu(), samples.targets[0].cpu()
    forms = (f"{what} {form_of(x)}" for what, x in (("inputs", inputs), ("targets", targets)))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            value = loss(module(inputs), targets)
    except Exception as error:
        raise UsageError(
            f"{name}: the module and its loss do not take {' and '.join(forms)}: {described(error)}"
        ) from error
    if not isinstance(value, Tensor) or value.shape:
        raise UsageError(f"{name}: the loss is {form_of(value)}, not a tensor of one number")


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
        """(−loss, its gradient) at θ, through the inner loop.

        Raises:
            NonFiniteError: one of them is infinite or NaN.

        """

        def of_chunk(chunk: tuple[Samples, Samples]) -> tuple[Tensor, ...]:
            theta = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
            with torch.enable_grad():
                term = self._term(theta, *chunk, create_graph=True)
            gradients = torch.autograd.grad(
                term, tuple(theta.values()), allow_unused=True, materialize_grads=True
            )
            return (term.detach(), *gradients)

        value, *gradients = self._workers.sum(of_chunk, self._chunks, self._shard)
        whole = dict(zip(parameters, gradients, strict=True))
        expect_finite("the meta-gradient", {"the objective": value, **whole})
        return value.item(), whole

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
