"""The inner loop: from parameters and rollouts to adapted parameters, all tasks at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.advantage import Batch
from metarl.parallel import Workers, chunk_slices
from metarl.policy import Distribution, Parameters, Policy, expand

Surrogate = Callable[[Distribution, Batch], Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """Gradient ascent on the surrogate: θ' = θ + α ∇_θ Ĵ(θ), once for each batch."""

    policy: Policy
    surrogate: Surrogate
    learning_rate: float

    def step(
        self, parameters: Mapping[str, Tensor], batch: Batch, create_graph: bool = False
    ) -> Parameters:
        """One step of every task; with `create_graph`, θ' can be differentiated by θ.

        Args:
            parameters: [tasks, ...] each.

        """
        if not create_graph:
            parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        with torch.enable_grad():
            surrogate = self.surrogate(
                self.policy.distribution(parameters, batch.observations), batch
            )
            # Tasks are independent, so the gradient of the sum holds each task's own.
            gradients = torch.autograd.grad(
                surrogate.sum(), tuple(parameters.values()), create_graph=create_graph
            )
        adapted = {
            name: parameter + self.learning_rate * gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }
        return adapted if create_graph else {n: p.detach() for n, p in adapted.items()}

    def run(
        self, parameters: Mapping[str, Tensor], batches: Sequence[Batch], create_graph: bool = False
    ) -> Parameters:
        """θ after one step on each batch."""
        adapted = dict(parameters)
        for batch in batches:
            adapted = self.step(adapted, batch, create_graph)
        return adapted


def adapt_by_sampling(
    inner: InnerLoop,
    parameters: Mapping[str, Tensor],
    tasks: int,
    steps: int,
    sample: Callable[[Parameters, int], Batch],
    workers: Workers,
) -> list[Batch]:
    """Alternates rollouts and inner steps: the batches of stages 0 to `steps`.

    Args:
        parameters: θ, without a task dimension.
        sample: (parameters [tasks, ...], stage) -> batch; fresh experience for every stage.

    """
    adapted = expand(parameters, tasks)
    batches = [sample(adapted, 0)]
    for stage in range(1, steps + 1):
        adapted = adapt(inner, adapted, batches[-1], workers)
        batches.append(sample(adapted, stage))
    return batches


def adapt(
    inner: InnerLoop, parameters: Mapping[str, Tensor], batch: Batch, workers: Workers
) -> Parameters:
    """One inner step of all tasks, on the workers' threads."""
    tasks, episodes, time = batch.valid.shape
    slices = chunk_slices(tasks, episodes * time, batch.observations.device)
    parts = workers.map(
        lambda s: inner.step({name: p[s] for name, p in parameters.items()}, batch[s]), slices
    )
    return {name: torch.cat([part[name] for part in parts]) for name in parameters}
