"""The meta-objective of MAML for policy gradients, as a function of θ alone."""

import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metarl.maml.estimators import Surrogate, estimated
from metarl.maml.inner_loop import InnerLoop, Objective
from metarl.outer.objective import Replay, Stage, Term, divergence, surrogate
from metarl.policies.action_distributions import Distribution
from metarl.policies.parameters import Parameters
from metarl.policies.policy import Policy
from metarl.sampling.data import SMALLEST_WEIGHT, Batch
from metarl.support.errors import NonFiniteError
from metarl.support.finite import expect_finite, not_finite
from metarl.support.looks import read
from metarl.support.parallel import Shard, Workers

LEAST_STEPS = 100
"""Steps of a task, padding included, that a curvature sees, where there are as many: a stride
leaves one of ten pulls of a bandit, and with it a KL that is many times the claimed one."""

BYTES_OF_GRAPH = 48.0
"""Of each number that the policy keeps of a step, in the graph that Fisher products differentiate:
for each of K inner steps and once more. Measured; tests/faults/test_memory.py checks it."""


def policy_objective(policy: Policy, estimator: Surrogate) -> Objective:
    """What the inner loop maximises: the surrogate of a policy on a batch of rollouts."""

    def objective(parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        distribution = policy.distribution(parameters, batch.observations)
        return estimated(estimator, distribution.log_prob(batch.actions), batch)

    return objective


@dataclass(frozen=True)
class _Chunk:
    """Some tasks: the batches of the inner steps, the batch after them, and who collected that."""

    inner_batches: list[Batch]
    batch: Batch
    collected_by: Distribution
    gain: Tensor  # [tasks]: (R' − b) / (σ T) of the sampling correction
    in_first_half: int  # so many of its tasks, the first ones, belong to the first half of all
    inner_collected_by: Callable[[], list[Distribution]]  # computed at the first call


class MetaObjective:
    """θ -> means over tasks of terms of the adapted policies, by replaying the inner loop from θ.

    The outer loop chooses the terms. Two are those of every loop: with θ'_i(θ) the parameters
    adapted to task i on the given inner batches, and θ_0 those that the experience was collected
    with,

        surrogate(θ) = mean_i mean_t π_{θ'_i(θ)}(a_t|s_t) / π_{θ'_i(θ_0)}(a_t|s_t) · A_t
        KL(θ)        = mean_i mean_t KL(π_{θ'_i(θ_0)}(·|s_t) ‖ π_{θ'_i(θ)}(·|s_t))

    over the batch collected after adaptation. The experience of the inner steps depends on θ too:
    with `sampling_correction` the surrogate has the term that accounts for it (E-MAML: Stadie et
    al. 2018, arXiv 1803.01118; Al-Shedivat et al. 2018, arXiv 1710.03641),

        mean_i (R'_i − b_i) / (σ_i T_i) Σ_k Σ_{τ in batch k} log π_{θ_k}(τ),

    where R' is the return after adaptation, discounted, and b_i its mean over the other tasks. As
    the surrogate is per step and has its advantages divided by σ_i, so is the difference: T_i is
    the mean length of the task's episodes. It is exact, for any number of episodes, with the naive
    inner surrogate; dice, loaded_dice and taypo2 hold its effect on the mean already. Its noise
    grows with the number of steps that it sums; `correction_over_steps` "mean" divides it by that
    number, as published implementations do.

    Tasks are summed by `Workers.sum`: neither the number of threads nor the division of the tasks
    among processes changes a bit.
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
        returns: Tensor | None = None,
        shard: Shard | None = None,
        dropped: Collection[int] = (),
        deviations: Tensor | None = None,
    ):
        """An objective of one iteration.

        Args:
            batches: of stages 0 to K.
            parameters: θ_0.
            adapted: θ'(θ_0), [tasks, ...] each.
            returns: [tasks], after adaptation; for outer loops that ask for them.
            shard: which of all tasks the batches hold; all of them if not given.
            dropped: tasks among all that have no part in the means; their steps weigh nothing.
            deviations: σ, [tasks], that the last batch was divided by; 1 if not given.

        """
        self._policy = policy
        self._inner = inner
        self._batches = list(batches)
        self._parameters = dict(parameters)
        self._adapted = dict(adapted)
        self._workers = workers
        self._sampling_correction = sampling_correction
        self._correction_over_steps = correction_over_steps
        self._returns = returns
        self._made: list[_Chunk] | None = None
        first = batches[0]
        self._shard = shard or Shard.whole(first.tasks, first.rows, first.device)
        self._dropped = frozenset(dropped)
        self.tasks = self._shard.total - len(self._dropped)
        self._gains = torch.zeros_like(first.weight[:, 0, 0])
        if sampling_correction:
            self._gains = self._gains_over_others(deviations)
        self.agreement: float | None = None
        """Cosine between the gradients of the two halves of the tasks, at the first θ whose
        gradient was asked for; None before. Noise brings it towards 0."""

    def value(self, parameters: Mapping[str, Tensor]) -> tuple[float, float]:
        """(surrogate, KL) at θ."""
        value, kl = self.means(parameters, surrogate, divergence)
        return value, kl

    def means(self, parameters: Mapping[str, Tensor], *terms: Term) -> list[float]:
        """The mean over tasks of each term at θ."""

        def of_chunk(chunk: _Chunk) -> tuple[Tensor, ...]:
            path = self._inner.path(self._begin(parameters, chunk), chunk.inner_batches)
            with torch.no_grad():
                replay = self._replay(path, chunk)
                return tuple(term(replay).sum() / self.tasks for term in terms)

        return read(*self._sum(of_chunk, self._chunks))

    def gradient(
        self, parameters: Mapping[str, Tensor], term: Term = surrogate
    ) -> tuple[float, Parameters]:
        """(mean of the term, its gradient by θ) at θ, through the inner loop.

        Raises:
            NonFiniteError: one of them is infinite or NaN.

        """

        def of_chunk(chunk: _Chunk) -> tuple[Tensor, ...]:
            theta, values = self._differentiable(parameters, chunk, term)
            halves = values[: chunk.in_first_half], values[chunk.in_first_half :]
            gradients = (self._gradients_of(half, theta) for half in halves)
            return (values.detach().sum(), *itertools.chain(*gradients))

        mean, *gradients = self._sum(of_chunk, self._chunks)
        first, second = gradients[: len(parameters)], gradients[len(parameters) :]
        total = (a + b for a, b in zip(first, second, strict=True))
        whole = dict(zip(parameters, total, strict=True))
        try:
            expect_finite("the meta-gradient", {"the objective": mean, **whole})
        except NonFiniteError as error:
            raise NonFiniteError(str(error), self._without_gradient(parameters, term)) from None
        value, agreement = read(mean, _cosine(first, second))
        if self.agreement is None:
            self.agreement = agreement
        return value, whole

    def displacement(self) -> Parameters:
        """mean_i θ'_i(θ_0) − θ_0."""

        def of_slice(tasks: slice) -> tuple[Tensor, ...]:
            own: Any = tasks
            if self._dropped:
                first = self._shard.tasks.start
                own = [i for i in range(tasks.start, tasks.stop) if first + i not in self._dropped]
            return tuple(self._adapted[name][own].sum(0) for name in self._parameters)

        totals = self._sum(of_slice, self._shard.slices)
        return {
            name: total / self.tasks - p
            for (name, p), total in zip(self._parameters.items(), totals, strict=True)
        }

    def returns(self) -> Tensor:
        """Mean return of each task after adaptation: [tasks].

        Raises:
            ValueError: the objective was made without them.

        """
        if self._returns is None:
            raise ValueError("MetaObjective needs the argument `returns` for this outer loop")
        return self._returns

    def curvature(
        self, parameters: Mapping[str, Tensor], term: Term, stride: int = 1
    ) -> Callable[[Parameters], Parameters]:
        """v -> (∇²_θ mean of the term) v at θ.

        For the KL at θ_0 this is the Fisher matrix of the adapted policies.

        With a `stride` above 1 the mean over steps sees every `stride`-th time step only
        (`Batch.every`), and so does the inner loop if its objective is separable: neighbouring
        steps say nearly the same, and a product costs that much less.

        A product differentiates the gradient by θ, whose graph is kept from product to product if
        there is memory for that of all tasks (`Workers.keeps`), and otherwise made for each again.
        That changes no bit.
        """
        chunks = self._chunks
        stride = min(stride, max(1, self._batches[-1].rows // LEAST_STEPS))
        if stride > 1:
            first = self._shard.tasks.start
            *inner_batches, last = self._batches
            adapted: Mapping[str, Tensor] | None = self._adapted
            if self._inner.separable:
                inner_batches = [batch.every(stride, first) for batch in inner_batches]
                adapted = None
            chunks = self._split([*inner_batches, last.every(stride, first)], adapted)

        def linearise(chunk: _Chunk) -> tuple[Parameters, tuple[Tensor, ...]]:
            theta, values = self._differentiable(parameters, chunk, term)
            with torch.enable_grad():
                return theta, _gradients(values.sum(), theta, create_graph=True)

        steps = sum(batch.rows for batch in (*chunks[0].inner_batches, chunks[0].batch))
        keeps = self._workers.keeps(
            len(self._batches[0].weight), BYTES_OF_GRAPH * steps * self._numbers_kept, self._device
        )
        graphs = self._workers.map(linearise, chunks) if keeps else []

        def product(vector: Parameters) -> Parameters:
            v = tuple(vector[name] for name in parameters)

            def of_graph(graph: tuple[Parameters, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
                theta, gradient = graph
                return _gradients(gradient, theta, along=v, retain_graph=keeps)

            def of_chunk(chunk: _Chunk) -> tuple[Tensor, ...]:
                return of_graph(linearise(chunk))

            totals = self._sum(of_graph, graphs) if keeps else self._sum(of_chunk, chunks)
            return dict(zip(parameters, totals, strict=True))

        return product

    @property
    def _device(self) -> torch.device:
        return self._batches[0].device

    @functools.cached_property
    def _numbers_kept(self) -> int:
        """Numbers that the policy keeps of each step to differentiate its log-probability."""

        def kept(steps: int) -> int:
            held: dict[int, int] = {}

            def hold(tensor: Tensor) -> Tensor:
                held[tensor.data_ptr()] = tensor.numel()
                return tensor

            first = self._batches[0]
            seen = first.observations.new_zeros(1, 1, steps, *first.observations.shape[3:])
            taken = first.actions.new_zeros(1, 1, steps, *first.actions.shape[3:])
            leaves = {n: p.detach().requires_grad_() for n, p in self._parameters.items()}
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(hold, _same):
                begin = self._inner.begin(leaves, 1)
                self._policy.distribution(begin, seen).log_prob(taken)
            return sum(held.values())

        return (kept(16) - kept(8)) // 8

    @property
    def _chunks(self) -> list[_Chunk]:
        """The chunks of the whole batches, made when a term is first asked for.

        Not a `cached_property`: in Python 3.11 that locks all objectives while it is computed, and
        with several ranks in one process each waits for the others.
        """
        if self._made is None:
            self._made = self._split(self._batches, self._adapted)
        return self._made

    def _split(
        self, batches: Sequence[Batch], adapted: Mapping[str, Tensor] | None
    ) -> list[_Chunk]:
        """The chunks of this process; θ'(θ_0) is computed from the batches if it is not given."""
        # Whole chunks, so that a chunk is differentiated once; a single one is divided.
        chunks = self._shard.all_chunks
        half = self._shard.chunk * (chunks // 2) if chunks > 1 else self._shard.total // 2

        def of_slice(tasks: slice) -> _Chunk:
            *inner_batches, batch = [b[tasks] for b in batches]
            if adapted is None:
                begin = self._inner.begin(self._parameters, batch.tasks)
                own = self._inner.path(begin, inner_batches)[-1]
            else:
                own = {name: p[tasks] for name, p in adapted.items()}
            with torch.no_grad():
                collected_by = self._policy.distribution(own, batch.observations)
            return _Chunk(
                inner_batches,
                batch,
                collected_by,
                self._gains[tasks],
                min(max(0, half - self._shard.tasks.start - tasks.start), batch.tasks),
                functools.cache(lambda: self._inner_policies(inner_batches)),
            )

        return self._workers.map(of_slice, self._shard.slices, shard=self._shard)

    def _gains_over_others(self, deviations: Tensor | None) -> Tensor:
        """The factors (R'_i − b_i) / (σ_i T_i) of the sampling correction: [tasks]."""
        last = self._batches[-1]
        sigma = torch.ones_like(last.weight[:, 0, 0]) if deviations is None else deviations

        def of_slice(tasks: slice) -> tuple[Tensor, Tensor]:
            """Returns, and episodes per step."""
            batch = last[tasks]
            episodes, steps = batch.weight[..., 0].sum(1), batch.weight.sum((1, 2))
            # A dropped task has neither.
            returns = batch.sum(batch.rewards) * sigma[tasks] / episodes.clamp(min=SMALLEST_WEIGHT)
            return returns, episodes / steps.clamp(min=SMALLEST_WEIGHT)

        parts = self._workers.map(of_slice, self._shard.slices, shard=self._shard)
        (total,) = self._sum(lambda part: (part[0].sum(),), parts)
        returns, per_step = map(torch.cat, zip(*parts, strict=True))
        others = (total - returns) / max(1, self.tasks - 1)
        return (returns - others) / sigma * per_step

    def _sum(
        self, function: Callable[[Any], tuple[Tensor, ...]], chunks: Sequence[object]
    ) -> tuple[Tensor, ...]:
        return self._workers.sum(function, chunks, self._shard)

    def _begin(self, parameters: Mapping[str, Tensor], chunk: _Chunk) -> Parameters:
        return self._inner.begin(parameters, chunk.batch.tasks)

    def _differentiable(
        self, parameters: Mapping[str, Tensor], chunk: _Chunk, term: Term
    ) -> tuple[Parameters, Tensor]:
        """θ as leaves, and each task's part of the mean of the term with its graph: [tasks]."""
        theta = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        with torch.enable_grad():
            path = self._inner.path(self._begin(theta, chunk), chunk.inner_batches, True)
            return theta, term(self._replay(path, chunk)) / self.tasks

    def _without_gradient(self, parameters: Mapping[str, Tensor], term: Term) -> list[int]:
        """The tasks of this process whose own part of the gradient is infinite or NaN."""
        found: list[int] = []
        for tasks, chunk in zip(self._shard.slices, self._chunks, strict=True):
            begin = self._begin(parameters, chunk)
            leaves = {n: begin[n].detach().clone().requires_grad_() for n in parameters}
            with torch.enable_grad():
                path = self._inner.path({**begin, **leaves}, chunk.inner_batches, True)
                values = term(self._replay(path, chunk))
                bad = not_finite(values, *_gradients(values.sum(), leaves))
            found += (tasks.start + bad.nonzero().flatten()).tolist()
        return found

    def _gradients_of(self, values: Tensor, theta: Parameters) -> tuple[Tensor, ...]:
        """The gradients of the sum of some tasks' values; the graph is kept for other tasks."""
        if not len(values):
            return tuple(map(torch.zeros_like, theta.values()))
        return _gradients(values.sum(), theta, retain_graph=True)

    def _replay(self, path: list[Parameters], chunk: _Chunk) -> Replay:
        """The chunk under the policies on the path from θ."""
        batch = chunk.batch
        new = self._policy.distribution(path[-1], batch.observations)
        # On padding, which weighs nothing, the exponential could be infinite.
        log_ratio = (new.log_prob(batch.actions) - batch.log_probs) * (batch.weight > 0)

        def before() -> list[Stage]:
            news = self._policies(path, chunk.inner_batches)
            stages = zip(chunk.inner_collected_by(), news, chunk.inner_batches, strict=True)
            return [Stage(old, new, batch.mean) for old, new, batch in stages]

        return Replay(
            Stage(chunk.collected_by, new, batch.mean),
            before,
            torch.exp(log_ratio),
            batch.advantages,
            self._correction(path, chunk),
        )

    def _correction(self, path: list[Parameters], chunk: _Chunk) -> Tensor:
        """The sampling correction of each task: [tasks]."""
        total = torch.zeros_like(chunk.gain)
        if self._sampling_correction:
            policies = self._policies(path, chunk.inner_batches)
            for then, before in zip(policies, chunk.inner_batches, strict=True):
                log_ratio = then.log_prob(before.actions) - before.log_probs
                reduce = before.sum if self._correction_over_steps == "sum" else before.mean
                total = total + chunk.gain * reduce(log_ratio)
        return total

    def _policies(self, path: list[Parameters], batches: list[Batch]) -> list[Distribution]:
        """The policies on the path, each on the batch of its stage."""
        return [
            self._policy.distribution(parameters, batch.observations)
            for parameters, batch in zip(path, batches, strict=False)  # the last one has no batch
        ]

    def _inner_policies(self, batches: list[Batch]) -> list[Distribution]:
        """The policies adapted from θ_0 that collected the inner batches of a chunk."""
        begin = self._inner.begin(self._parameters, batches[0].tasks) if batches else {}
        path = self._inner.path(begin, batches[:-1])
        with torch.no_grad():
            return self._policies(path, batches)


def _same(tensor: Tensor) -> Tensor:
    return tensor


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


def _cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Cosine of the angle between two lists of tensors, each taken as one vector; 0 for zeros."""
    a, b = (torch.cat([tensor.reshape(-1) for tensor in tensors]) for tensors in (first, second))
    return torch.nn.functional.cosine_similarity(a, b, dim=0)
