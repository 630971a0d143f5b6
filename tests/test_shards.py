"""Sums over tasks: any number of threads and any division of the tasks gives the same bits."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metarl.learners.rl2 import Experience, RL2Config, clipped_loss
from metarl.maml.estimators import lvc
from metarl.maml.inner_loop import InnerLoop
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.maml.supervised import FewShotObjective, initial_parameters, module_objective
from metarl.outer.objective import divergence
from metarl.outer.ppo import PPO, PPOOptions
from metarl.policies.mlp import GaussianPolicy
from metarl.policies.parameters import expand
from metarl.policies.recurrent import RecurrentPolicy
from metarl.sampling.data import Batch
from metarl.support import parallel
from metarl.support.parallel import Shard, Workers, chunk_size, chunk_slices
from metarl.tasks.samples import Samples

CPU = torch.device("cpu")


class Exchange:
    """Gathers nodes among ranks that are threads of one process, as `all_gather` would."""

    def __init__(self, ranks):
        self.barrier = threading.Barrier(ranks, timeout=20)
        self.slots = [None] * ranks

    def run(self, function, threads=1):
        """`function(rank, workers)` on all ranks at once; the result of each."""

        def of_rank(rank):
            def gather(nodes):
                self.slots[rank] = nodes
                self.barrier.wait()
                gathered = list(self.slots)
                self.barrier.wait()  # before the next sum overwrites the slots
                return gathered

            try:
                return function(rank, Workers(threads, gather))
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(len(self.slots)) as pool:
            return list(pool.map(of_rank, range(len(self.slots))))


def sharded(total, chunk, ranks, function, threads=1):
    """`function(shard, workers)` of every rank."""
    return Exchange(ranks).run(
        lambda rank, workers: function(Shard.of(rank, ranks, total, chunk), workers), threads
    )


def assert_same_bits(results, expected):
    for result in results:
        for ours, theirs in zip(result, expected, strict=True):
            assert torch.equal(ours, theirs)


# Of very different sizes, so that another order of the sum shows.
def terms(total):
    generator = torch.Generator().manual_seed(total)
    sizes = 10 ** (8 * torch.rand(total, 1, generator=generator) - 4)
    return torch.randn(total, 3, generator=generator) * sizes


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 7), st.sampled_from([1, 3]))
def test_any_division_of_the_tasks_gives_the_same_bits(total, chunk, ranks, threads):
    values = terms(total)

    def of_shard(shard, workers):
        own = values[shard.start : shard.stop]
        return workers.sum(
            lambda tasks: (own[tasks].sum(0), own[tasks].exp().sum()),
            chunk_slices(shard.tasks, chunk),
            shard=shard.in_chunks(chunk),
        )

    whole = of_shard(Shard.whole(total), Workers(1))
    assert_same_bits(sharded(total, chunk, ranks, of_shard, threads), whole)
    torch.testing.assert_close(whole[0].double(), values.double().sum(0), rtol=1e-4, atol=1e-2)


@settings(deadline=None)
@given(st.data())
def test_unequal_shares_give_the_same_bits(data):
    total = data.draw(st.integers(1, 40))
    cuts = data.draw(st.lists(st.integers(0, total), max_size=5))
    ends = [0, *sorted(cuts), total]
    values = terms(total)

    def of_shard(shard, workers):
        return workers.sum(lambda i: (values[i],), range(shard.start, shard.stop), shard=shard)

    def of_rank(rank, workers):
        return of_shard(Shard(ends[rank], ends[rank + 1], total), workers)

    expected = of_shard(Shard.whole(total), Workers(1))
    assert_same_bits(Exchange(len(ends) - 1).run(of_rank), expected)


def test_the_sum_runs_along_a_binary_tree():
    """Not from left to right: there a large number absorbs each small one."""
    values = [torch.tensor(x) for x in (2.0**24, 1.0, 1.0, 1.0, 1.0, 1.0)]
    (total,) = Workers(1).sum(lambda x: (x,), values)
    a, b, c, d, e, f = values
    assert torch.equal(total, ((a + b) + (c + d)) + (e + f))
    assert total == 2.0**24 + 4
    assert sum(values) == 2.0**24


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9))
def test_shards_cover_the_tasks_in_whole_chunks(total, chunk, ranks):
    shards = [Shard.of(rank, ranks, total, chunk) for rank in range(ranks)]
    assert [shard.start for shard in shards[1:]] == [shard.stop for shard in shards[:-1]]
    assert (shards[0].start, shards[-1].stop) == (0, total)
    numbers = [shard.in_chunks(chunk).tasks for shard in shards]
    assert max(numbers) - min(numbers) <= 1


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="must begin and end at a multiple of 4 tasks"):
        Shard(2, 8, 11).in_chunks(4)
    with pytest.raises(ValueError, match="is not a part of tasks 0 to 3"):
        Shard(2, 4, 3)
    with pytest.raises(ValueError, match="2 chunks are not those of"):
        Workers(1).sum(lambda x: (x,), [torch.ones(1)] * 2, shard=Shard(0, 3, 3))
    with pytest.raises(ValueError, match="no process has given chunk 2"):
        Workers(1).sum(lambda x: (x,), [torch.ones(1)] * 2, shard=Shard(0, 2, 3))


TASKS, RANKS = 11, (1, 2, 3, 5)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 2 tasks with all time steps, and of 4 with every second one."""
    monkeypatch.setattr(parallel, "ROWS_PER_CHUNK", 160)
    assert (chunk_size(TASKS, 60, CPU), chunk_size(TASKS, 30, CPU)) == (2, 4)


def displaced(tensor):
    """A copy whose memory begins off the boundaries that torch's own allocations have."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    return room[1:].view(tensor.shape).copy_(tensor)


def part(batch, shard, place=torch.clone):
    own = batch[shard.start : shard.stop]
    return replace(own, **{f.name: place(getattr(own, f.name)) for f in fields(own)})


@pytest.fixture
def meta(small_chunks):
    """(shard, workers, place of the data) -> value, gradient, Fisher product and displacement."""
    policy = GaussianPolicy(17, 6, hidden_sizes=(32, 32))
    theta = policy.initial_parameters(np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)

    def random_batch():
        def normal(*size):
            return torch.randn(TASKS, 5, 12, *size, generator=generator)

        observations, actions = normal(17), normal(6)
        log_probs = policy.distribution(expand(theta, TASKS), observations).log_prob(actions)
        others = (normal(), normal(), normal(), torch.ones(TASKS, 5, 12))
        return Batch(observations, actions, log_probs, *others)

    batches = [random_batch() for _ in range(2)]
    inner = InnerLoop(policy_objective(policy, lvc), 0.1)
    adapted = {
        name: torch.cat(
            [inner.step(expand(theta, 1), batches[0][i : i + 1])[name] for i in range(TASKS)]
        )
        for name in theta
    }
    point = {name: p + 0.01 for name, p in theta.items()}
    term = PPO(PPOOptions(inner_kl_penalty=0.3)).term

    def results(shard, workers, place=torch.clone):
        objective = MetaObjective(
            policy,
            inner,
            [part(batch, shard, place) for batch in batches],
            theta,
            {name: place(p[shard.start : shard.stop]) for name, p in adapted.items()},
            workers,
            sampling_correction=True,
            shard=shard,
        )
        value, gradient = objective.gradient(point, term)
        product = objective.curvature(point, divergence, stride=2)(point)
        numbers = torch.tensor([value, *objective.value(point)], dtype=torch.float64)
        return [numbers, *gradient.values(), *product.values(), *objective.displacement().values()]

    return results


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("place", [torch.clone, displaced])
def test_the_meta_objective_of_shards_is_that_of_all_tasks(meta, ranks, place):
    whole = meta(Shard.whole(TASKS), Workers(2))
    results = sharded(TASKS, 4, ranks, lambda *shard: meta(*shard, place))
    assert_same_bits(results, whole)


@pytest.mark.parametrize("ranks", RANKS)
def test_the_few_shot_objective_of_shards_is_that_of_all_tasks(small_chunks, ranks):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 2))
    theta = initial_parameters(module)
    inner = InnerLoop(module_objective(module, nn.functional.mse_loss), 0.1)
    support, query = (
        Samples(torch.randn(TASKS, 60, 3), torch.randn(TASKS, 60, 2)) for _ in range(2)
    )

    def results(shard, workers):
        sets = (part(samples, shard) for samples in (support, query))
        objective = FewShotObjective(inner, *sets, 2, theta, workers, shard)
        value, gradient = objective.gradient(theta)
        numbers = torch.tensor([value, *objective.value(theta)], dtype=torch.float64)
        return [numbers, *gradient.values(), *objective.displacement().values()]

    whole = results(Shard.whole(TASKS), Workers(2))
    assert_same_bits(sharded(TASKS, 2, ranks, results), whole)


@pytest.mark.parametrize("ranks", RANKS)
def test_the_loss_of_a_recurrent_policy_of_shards_is_that_of_all_trials(ranks):
    spaces = GaussianPolicy(3, 2, hidden_sizes=())
    network = RecurrentPolicy(spaces, 16, 0)
    width, steps, chunk = 3 + 1 + 2 + 1, 9, 3  # observation, reward, action, whether one begins
    torch.manual_seed(0)
    batch = Experience(
        torch.randn(TASKS, steps, width),
        torch.randn(TASKS, steps, 2),
        torch.randn(TASKS, steps) - 3,
        torch.randn(TASKS, steps),
        torch.randn(TASKS, steps),
        torch.rand(TASKS, steps) < 0.8,
    )
    config = RL2Config(family="x")

    def results(shard, workers):
        own = part(batch, shard)

        def gradient(trials):
            loss = clipped_loss(network, own[trials], config)
            return (loss.detach(), *torch.autograd.grad(loss, list(network.parameters())))

        return workers.sum(gradient, chunk_slices(shard.tasks, chunk), shard=shard.in_chunks(chunk))

    whole = results(Shard.whole(TASKS), Workers(2))
    assert_same_bits(sharded(TASKS, chunk, ranks, results), whole)
