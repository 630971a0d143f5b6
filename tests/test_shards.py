"""Sums over tasks: any number of threads and any division of the tasks gives the same bits."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metarl import Config, RL2Config
from metarl.learners.few_shot import FewShotConfig
from metarl.learners.registry import make_learner
from metarl.maml import meta_objective
from metarl.maml.estimators import lvc
from metarl.maml.inner_loop import InnerLoop
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.maml.supervised import FewShotObjective, module_objective
from metarl.outer.objective import divergence
from metarl.outer.ppo import PPO, PPOOptions
from metarl.policies.actions import ContinuousActions
from metarl.policies.mlp import MLP
from metarl.policies.module_network import initial_parameters
from metarl.policies.parameters import expand
from metarl.policies.policy import Policy
from metarl.sampling.data import Batch
from metarl.support import parallel
from metarl.support.errors import UsageError
from metarl.support.parallel import Shard, Workers, chunk_size
from metarl.tasks.samples import Samples

CPU = torch.device("cpu")


class Meeting:
    """Where ranks that are threads of one process exchange values, as torch.distributed does."""

    def __init__(self, number):
        self.barrier = threading.Barrier(number, timeout=20)
        self.slots = [None] * number

    def exchange(self, rank, value):
        self.slots[rank] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()  # before the next exchange overwrites the slots
        return values


class ThreadRank:
    """One of the ranks."""

    def __init__(self, meeting, rank):
        self.meeting, self.rank, self.number = meeting, rank, len(meeting.slots)

    def gather(self, values, lengths):
        assert len(values) == lengths[self.rank]
        return self.meeting.exchange(self.rank, values)

    def exchange(self, value):
        return self.meeting.exchange(self.rank, value)


def sharded(total, chunk, ranks, function, threads=1):
    """`function(shard, workers)` of every rank."""
    meeting = Meeting(ranks)

    def of_rank(rank):
        try:
            workers = Workers(threads, ThreadRank(meeting, rank))
            return function(Shard(total, chunk, rank, ranks), workers)
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(of_rank, range(ranks)))


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
    values, ranks = terms(total), min(ranks, -(-total // chunk))

    def of_shard(shard, workers):
        own = values[shard.tasks]
        return workers.sum(
            lambda tasks: (own[tasks].sum(0), own[tasks].double().exp().sum()),
            shard.slices,
            shard,
        )

    whole = of_shard(Shard(total, chunk), Workers(1))
    results = sharded(total, chunk, ranks, of_shard, threads)
    assert_same_bits(results, whole)
    assert [part.dtype for part in results[0]] == [torch.float32, torch.float64]
    torch.testing.assert_close(whole[0].double(), values.double().sum(0), rtol=1e-4, atol=1e-2)


def test_the_sum_runs_along_a_binary_tree():
    """Not from left to right: there a large number absorbs each small one."""
    values = [torch.tensor(x) for x in (2.0**24, 1.0, 1.0, 1.0, 1.0, 1.0)]
    (total,) = Workers(1).sum(lambda x: (x,), values, Shard(6, 1))
    a, b, c, d, e, f = values
    assert torch.equal(total, ((a + b) + (c + d)) + (e + f))
    assert total == 2.0**24 + 4
    assert sum(values) == 2.0**24


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9))
def test_shards_cover_the_tasks_in_whole_chunks(total, chunk, ranks):
    shards = Shard(total, chunk, 0, ranks).all
    numbers = torch.cat([torch.arange(total)[shard.tasks] for shard in shards])
    assert numbers.tolist() == list(range(total))
    assert max(len(s.chunks) for s in shards) - min(len(s.chunks) for s in shards) <= 1
    for shard in shards:
        own = numbers[shard.tasks]
        parts = [own[part] for part in shard.slices]
        assert len(parts) == len(shard.chunks)
        assert all(int(part[0]) % chunk == 0 for part in parts)
        assert torch.cat([own[:0], *parts]).tolist() == own.tolist()


@given(st.integers(1, 600), st.integers(0, 40_000))
def test_a_chunk_is_a_power_of_two_and_leaves_work_for_others(tasks, rows):
    size = chunk_size(tasks, rows)
    assert size & (size - 1) == 0
    assert size == 1 or size * rows <= parallel.ROWS_PER_CHUNK
    assert -(-tasks // size) >= min(tasks, parallel.LEAST_CHUNKS)


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="2 results are not those of chunks"):
        Workers(1).sum(lambda x: (x,), [torch.ones(1)] * 2, Shard(3, 1))
    many = Workers(1, SimpleNamespace(rank=3, number=7))
    with pytest.raises(UsageError, match=r"7 processes cannot share 11 tasks, .* start at most 6"):
        many.shard(11, 10, CPU)


@pytest.mark.parametrize(
    "config",
    [
        Config("envs:Navigation2D-v0", eval_tasks=2, horizon=3, device="cpu"),
        RL2Config("envs:Navigation2D-v0", eval_tasks=1, eval_trials=2, horizon=3, device="cpu"),
        FewShotConfig(problem="envs.sinusoid:Sinusoid", eval_tasks=2, device="cpu"),
    ],
    ids=["maml", "rl2", "few_shot"],
)
def test_every_learner_knows_when_processes_cannot_share_its_evaluations(config):
    learner = make_learner(config)
    learner.workers.ranks = SimpleNamespace(rank=1, number=2)
    learner.expect_shares(config.eval_tasks)
    learner.workers.ranks = SimpleNamespace(rank=2, number=3)
    with pytest.raises(UsageError, match="3 processes cannot share 2 tasks"):
        learner.expect_shares(config.eval_tasks)


TASKS, CHUNK, RANKS = 11, 2, (1, 2, 3, 5)


def displaced(tensor):
    """A copy whose memory begins off the boundaries that torch's own allocations have."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    return room[1:].view(tensor.shape).copy_(tensor)


def part(batch, shard, place=torch.clone):
    own = batch[shard.tasks]
    return replace(own, **{f.name: place(getattr(own, f.name)) for f in fields(own)})


@pytest.fixture
def meta(monkeypatch):
    """(shard, workers, place of the data) -> value, gradient, Fisher product and displacement."""
    monkeypatch.setattr(meta_objective, "LEAST_STEPS", 1)
    policy = Policy(MLP(17, 6, hidden_sizes=(32, 32)), ContinuousActions(6))
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
            {name: place(p[shard.tasks]) for name, p in adapted.items()},
            workers,
            sampling_correction=True,
            shard=shard,
        )
        value, gradient = objective.gradient(point, term)
        product = objective.curvature(point, divergence, stride=3)(point)
        means = [value, objective.agreement, *objective.value(point)]
        numbers = torch.tensor(means, dtype=torch.float64)
        return [numbers, *gradient.values(), *product.values(), *objective.displacement().values()]

    return results


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("place", [torch.clone, displaced])
def test_the_meta_objective_of_shards_is_that_of_all_tasks(meta, ranks, place):
    whole = meta(Shard(TASKS, CHUNK), Workers(2))
    results = sharded(TASKS, CHUNK, ranks, lambda *shard: meta(*shard, place))
    assert_same_bits(results, whole)


@pytest.mark.parametrize("ranks", RANKS)
def test_the_few_shot_objective_of_shards_is_that_of_all_tasks(ranks):
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

    whole = results(Shard(TASKS, CHUNK), Workers(2))
    assert_same_bits(sharded(TASKS, CHUNK, ranks, results), whole)
