"""The meta-objective of MAML for policy gradients, as a function of θ alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.adaptation import InnerLoop
from metarl.advantage import Batch
from metarl.parallel import Workers, chunk_slices
from metarl.policy import Distribution, Parameters, expand
from metarl.surrogate import lvc


@dataclass(frozen=True)
class _Chunk:
    """Some tasks: the batches of the inner steps, the batch after them, and who collected that."""

    inner_batches: list[Batch]
    batch: Batch
    collected_by: Distribution


class MetaObjective:
    """θ -> (surrogate, KL) of the adapted policies, by replaying the inner loop from θ.

    With θ'_i(θ) the parameters adapted to task i on the given inner batches, and θ_0 those that
    the experience was collected with,

        surrogate(θ) = mean_i mean_t π_{θ'_i(θ)}(a_t|s_t) / π_{θ'_i(θ_0)}(a_t|s_t) · A_t
        KL(θ)        = mean_i mean_t KL(π_{θ'_i(θ_0)}(·|s_t) ‖ π_{θ'_i(θ)}(·|s_t))

    over the batch collected after adaptation. Tasks are summed in a fixed order, so that the
    number of threads changes no bit.
    """

    def __init__(
        self,
        inner: InnerLoop,
        batches: Sequence[Batch],
        parameters: Mapping[str, Tensor],
        workers: Workers,
    ):
        """`batches`: of stages 0 to K, the last one after all inner steps; `parameters`: θ_0."""
        self._inner = inner
        self._batches = list(batches)
        self._parameters = dict(parameters)
        self._workers = workers
        self.tasks = len(batches[0].valid)
        self._chunks = self._split(self._batches)

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(surrogate, KL) at θ."""

        def of_chunk(chunk: _Chunk) -> tuple[Tensor, ...]:
            return self._terms(parameters, chunk, create_graph=False)

        surrogate, kl = _summed(self._workers.map(of_chunk, self._chunks))
        return surrogate.item(), kl.item()

    def gradient(self, parameters: Mapping[str, Tensor]) -> tuple[float, Parameters]:
        """(surrogate, ∇_θ surrogate) at θ, through the inner loop."""

        def of_chunk(chunk: _Chunk) -> tuple[Tensor, ...]:
            theta = _leaves(parameters)
            with torch.enable_grad():
                surrogate, _ = self._terms(theta, chunk, create_graph=True)
            gradients = torch.autograd.grad(surrogate, tuple(theta.values()))
            return (surrogate.detach(), *gradients)

        surrogate, *gradients = _summed(self._workers.map(of_chunk, self._chunks))
        return surrogate.item(), dict(zip(parameters, gradients, strict=True))

    def kl_curvature(
        self, parameters: Mapping[str, Tensor], stride: int = 1
    ) -> Callable[[Parameters], Parameters]:
        """v -> (∇²_θ KL) v at θ; at θ_0 the Fisher matrix of the adapted policies.

        With a `stride` above 1 both the inner loop and the mean over steps see every `stride`-th
        time step only: neighbouring steps say nearly the same, and a product costs that much less.
        """
        batches = self._batches if stride == 1 else [b.every(stride) for b in self._batches]
        chunks = self._chunks if stride == 1 else self._split(batches)

        def linearise(chunk: _Chunk) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            theta = _leaves(parameters)
            with torch.enable_grad():
                _, kl = self._terms(theta, chunk, create_graph=True)
                leaves = tuple(theta.values())
                return leaves, torch.autograd.grad(kl, leaves, create_graph=True)

        graphs = self._workers.map(linearise, chunks)

        def product(vector: Parameters) -> Parameters:
            v = tuple(vector[name] for name in parameters)

            def of_chunk(
                graph: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
            ) -> tuple[Tensor, ...]:
                leaves, gradient = graph
                return torch.autograd.grad(gradient, leaves, v, retain_graph=True)

            totals = _summed(self._workers.map(of_chunk, graphs))
            return dict(zip(parameters, totals, strict=True))

        return product

    def _split(self, batches: Sequence[Batch]) -> list[_Chunk]:
        tasks, episodes, time = batches[-1].valid.shape
        slices = chunk_slices(tasks, episodes * time, batches[-1].observations.device)

        def of_slice(tasks: slice) -> _Chunk:
            *inner_batches, batch = [b[tasks] for b in batches]
            adapted = self._inner.run(expand(self._parameters, len(batch.valid)), inner_batches)
            with torch.no_grad():
                collected_by = self._inner.policy.distribution(adapted, batch.observations)
            return _Chunk(inner_batches, batch, collected_by)

        return self._workers.map(of_slice, slices)

    def _terms(
        self, parameters: Mapping[str, Tensor], chunk: _Chunk, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        batch, old = chunk.batch, chunk.collected_by
        theta = expand(parameters, len(batch.valid))
        adapted = self._inner.run(theta, chunk.inner_batches, create_graph)
        with torch.set_grad_enabled(create_graph):
            new = self._inner.policy.distribution(adapted, batch.observations)
            surrogate = lvc(new, batch).sum() / self.tasks
            return surrogate, batch.mean(old.kl(new)).sum() / self.tasks


def _leaves(parameters: Mapping[str, Tensor]) -> Parameters:
    return {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}


def _summed(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(terms).sum(0) for terms in zip(*parts, strict=True)]
