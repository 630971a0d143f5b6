"""The meta-objective of MAML for policy gradients, as a function of θ alone."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.maml.estimators import Surrogate
from metarl.maml.inner_loop import InnerLoop, Objective
from metarl.policies.action_distributions import Distribution
from metarl.policies.mlp import Policy
from metarl.policies.parameters import Parameters
from metarl.sampling.data import Batch
from metarl.support.parallel import Workers, chunk_slices


def policy_objective(policy: Policy, surrogate: Surrogate) -> Objective:
    """What the inner loop maximises: the surrogate of a policy on a batch of rollouts."""

    def objective(parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        distribution = policy.distribution(parameters, batch.observations)
        return surrogate(distribution.log_prob(batch.actions), batch)

    return objective


@dataclass(frozen=True)
class _Chunk:
    """Some tasks: the batches of the inner steps, the batch after them, and who collected that."""

    inner_batches: list[Batch]
    batch: Batch
    collected_by: Distribution
    gain: Tensor  # [tasks]: of the sampling correction


class MetaObjective:
    """θ -> (surrogate, KL) of the adapted policies, by replaying the inner loop from θ.

    With θ'_i(θ) the parameters adapted to task i on the given inner batches, and θ_0 those that
    the experience was collected with,

        surrogate(θ) = mean_i mean_t π_{θ'_i(θ)}(a_t|s_t) / π_{θ'_i(θ_0)}(a_t|s_t) · A_t
        KL(θ)        = mean_i mean_t KL(π_{θ'_i(θ_0)}(·|s_t) ‖ π_{θ'_i(θ)}(·|s_t))

    over the batch collected after adaptation. The experience of the inner steps depends on θ too:
    with `sampling_correction` the surrogate has the term that accounts for it (E-MAML: Stadie et
    al. 2018, arXiv 1803.01118; Al-Shedivat et al. 2018, arXiv 1710.03641),

        mean_i (R'_i − b_i) Σ_k Σ_{τ in batch k} log π_{θ_k}(τ),

    where R' is the return after adaptation, not normalised to mean 0, per step as the surrogate
    is, and b_i its mean over the other tasks. It is exact, for any number of episodes, with the
    naive inner surrogate; dice, loaded_dice and taypo2 hold its effect on the mean already. Its
    noise grows with the number of steps that it sums; `correction_over_steps` "mean" divides it by
    that number, as the published codes do.

    Tasks are summed in a fixed order, so that the number of threads changes no bit.
    """

    def __init__(
        self,
        policy: Policy,
        inner: InnerLoop,
        batches: Sequence[Batch],
        parameters: Mapping[str, Tensor],
        adapted: Mapping[str, Tensor],
        workers: Workers,
        sampling_correction: bool = False,
        correction_over_steps: Literal["sum", "mean"] = "sum",
    ):
        """`batches`: of stages 0 to K; `parameters`: θ_0; `adapted`: θ'(θ_0), [tasks, ...]."""
        self._policy = policy
        self._inner = inner
        self._batches = list(batches)
        self._parameters = dict(parameters)
        self._adapted = dict(adapted)
        self._workers = workers
        self._sampling_correction = sampling_correction
        self._correction_over_steps = correction_over_steps
        self.tasks = batches[0].tasks
        self._chunks = self._split(self._batches, adapted)

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(surrogate, KL) at θ."""

        def of_chunk(chunk: _Chunk) -> tuple[Tensor, ...]:
            path = self._inner.path(self._begin(parameters, chunk), chunk.inner_batches)
            with torch.no_grad():
                new = self._policy.distribution(path[-1], chunk.batch.observations)
                return self._surrogate(path, new, chunk), self._kl(new, chunk)

        surrogate, kl = _summed(self._workers.map(of_chunk, self._chunks))
        return surrogate.item(), kl.item()

    def gradient(self, parameters: Mapping[str, Tensor]) -> tuple[float, Parameters]:
        """(surrogate, ∇_θ surrogate) at θ, through the inner loop."""

        def of_chunk(chunk: _Chunk) -> tuple[Tensor, ...]:
            theta, path, new = self._replay(parameters, chunk)
            with torch.enable_grad():
                surrogate = self._surrogate(path, new, chunk)
            return (surrogate.detach(), *_gradients(surrogate, theta))

        surrogate, *gradients = _summed(self._workers.map(of_chunk, self._chunks))
        return surrogate.item(), dict(zip(parameters, gradients, strict=True))

    def clipped_gradient(
        self, parameters: Mapping[str, Tensor], clip: float, penalty: float
    ) -> tuple[float, Parameters]:
        """(clipped surrogate − penalty · inner KL, its gradient by θ) at θ.

        The ratio of the surrogate is clipped to 1 ± `clip` where that makes it smaller.
        """

        def of_chunk(chunk: _Chunk, policies: list[Distribution]) -> tuple[Tensor, ...]:
            theta, path, new = self._replay(parameters, chunk)
            with torch.enable_grad():
                value = self._surrogate(path, new, chunk, clip)
                if penalty:
                    value = value - penalty * self._inner_kl(path, chunk, policies)
            return (value.detach(), *_gradients(value, theta))

        parts = self._workers.map(of_chunk, self._chunks, self._inner_policies)
        value, *gradients = _summed(parts)
        return value.item(), dict(zip(parameters, gradients, strict=True))

    def inner_kl(self, parameters: Mapping[str, Tensor]) -> float:
        """Mean, over the inner batches, of the KL from the policies at θ_0 that collected them."""

        def of_chunk(chunk: _Chunk, policies: list[Distribution]) -> tuple[Tensor, ...]:
            path = self._inner.path(self._begin(parameters, chunk), chunk.inner_batches[:-1])
            with torch.no_grad():
                return (self._inner_kl(path, chunk, policies),)

        (kl,) = _summed(self._workers.map(of_chunk, self._chunks, self._inner_policies))
        return kl.item()

    def displacement(self) -> Parameters:
        """mean_i θ'_i(θ_0) − θ_0."""
        return {name: self._adapted[name].mean(0) - p for name, p in self._parameters.items()}

    def kl_curvature(
        self, parameters: Mapping[str, Tensor], stride: int = 1
    ) -> Callable[[Parameters], Parameters]:
        """v -> (∇²_θ KL) v at θ; at θ_0 the Fisher matrix of the adapted policies.

        With a `stride` above 1 both the inner loop and the mean over steps see every `stride`-th
        time step only: neighbouring steps say nearly the same, and a product costs that much less.
        """
        chunks = self._chunks
        if stride > 1:
            chunks = self._split([batch.every(stride) for batch in self._batches], None)

        def linearise(chunk: _Chunk) -> tuple[Parameters, tuple[Tensor, ...]]:
            theta, _, new = self._replay(parameters, chunk)
            with torch.enable_grad():
                return theta, _gradients(self._kl(new, chunk), theta, create_graph=True)

        graphs = self._workers.map(linearise, chunks)

        def product(vector: Parameters) -> Parameters:
            v = tuple(vector[name] for name in parameters)

            def of_chunk(graph: tuple[Parameters, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
                theta, gradient = graph
                return _gradients(gradient, theta, along=v, retain_graph=True)

            totals = _summed(self._workers.map(of_chunk, graphs))
            return dict(zip(parameters, totals, strict=True))

        return product

    def _split(
        self, batches: Sequence[Batch], adapted: Mapping[str, Tensor] | None
    ) -> list[_Chunk]:
        """Chunks of tasks; θ'(θ_0) is computed from the batches where it is not given."""
        last = batches[-1]
        rewards = last.mean(last.rewards)
        others = (rewards.sum() - rewards) / (self.tasks - 1) if self.tasks > 1 else 0.0
        gains = rewards - others

        def of_slice(tasks: slice) -> _Chunk:
            *inner_batches, batch = [b[tasks] for b in batches]
            if adapted is None:
                begin = self._inner.begin(self._parameters, batch.tasks)
                own = self._inner.path(begin, inner_batches)[-1]
            else:
                own = {name: p[tasks] for name, p in adapted.items()}
            with torch.no_grad():
                collected_by = self._policy.distribution(own, batch.observations)
            return _Chunk(inner_batches, batch, collected_by, gains[tasks])

        return self._workers.map(of_slice, chunk_slices(last.tasks, last.rows, last.device))

    def _begin(self, parameters: Mapping[str, Tensor], chunk: _Chunk) -> Parameters:
        return self._inner.begin(parameters, chunk.batch.tasks)

    def _replay(
        self, parameters: Mapping[str, Tensor], chunk: _Chunk
    ) -> tuple[Parameters, list[Parameters], Distribution]:
        """θ as leaves, the path from it with its graph, and the policy at its end."""
        theta = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        with torch.enable_grad():
            path = self._inner.path(self._begin(theta, chunk), chunk.inner_batches, True)
            return theta, path, self._policy.distribution(path[-1], chunk.batch.observations)

    def _surrogate(
        self, path: list[Parameters], new: Distribution, chunk: _Chunk, clip: float = math.inf
    ) -> Tensor:
        """The chunk's part of the surrogate: a scalar."""
        batch = chunk.batch
        ratio = torch.exp(new.log_prob(batch.actions) - batch.log_probs)
        terms = ratio * batch.advantages
        if clip < math.inf:
            terms = torch.minimum(terms, ratio.clamp(1 - clip, 1 + clip) * batch.advantages)
        surrogate = batch.mean(terms)
        if self._sampling_correction:
            for parameters, before in zip(path, chunk.inner_batches, strict=False):
                then = self._policy.distribution(parameters, before.observations)
                log_ratio = then.log_prob(before.actions) - before.log_probs
                reduce = before.sum if self._correction_over_steps == "sum" else before.mean
                surrogate = surrogate + chunk.gain * reduce(log_ratio)
        return surrogate.sum() / self.tasks

    @functools.cached_property
    def _inner_policies(self) -> list[list[Distribution]]:
        """For each chunk, the policies at θ_0 that collected its inner batches."""

        def of_chunk(chunk: _Chunk) -> list[Distribution]:
            begin, batches = self._begin(self._parameters, chunk), chunk.inner_batches
            path = self._inner.path(begin, batches[:-1])[: len(batches)]
            with torch.no_grad():
                return [
                    self._policy.distribution(parameters, batch.observations)
                    for parameters, batch in zip(path, batches, strict=True)
                ]

        return self._workers.map(of_chunk, self._chunks)

    def _inner_kl(
        self, path: list[Parameters], chunk: _Chunk, policies: list[Distribution]
    ) -> Tensor:
        """The chunk's part of the inner KL: a scalar."""
        total = torch.zeros(chunk.batch.tasks, device=chunk.batch.device)
        for parameters, batch, old in zip(path, chunk.inner_batches, policies, strict=False):
            new = self._policy.distribution(parameters, batch.observations)
            total = total + batch.mean(old.kl(new))
        return total.sum() / (self.tasks * max(1, len(policies)))

    def _kl(self, new: Distribution, chunk: _Chunk) -> Tensor:
        """The chunk's part of the KL: a scalar."""
        return chunk.batch.mean(chunk.collected_by.kl(new)).sum() / self.tasks


def _gradients(
    of: Tensor | tuple[Tensor, ...],
    by: Parameters,
    along: tuple[Tensor, ...] | None = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor, ...]:
    """Gradients by each parameter, 0 for one that has no part in it."""
    return torch.autograd.grad(
        of,
        tuple(by.values()),
        along,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def _summed(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(terms).sum(0) for terms in zip(*parts, strict=True)]
