"""Rollouts of an environment that says where it is: every number can be traced to its step."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl import Config, Learner
from metarl.learners import simulations
from metarl.policies.action_units import ActionUnits
from metarl.policies.actions import ContinuousActions, DiscreteActions
from metarl.policies.mlp import MLP
from metarl.policies.parameters import expand
from metarl.policies.policy import Policy
from metarl.sampling.actor import PolicyActor
from metarl.sampling.finite import expect_finite_rollout
from metarl.sampling.rollout import collect
from metarl.simulation.backends import make_simulation, make_simulations
from metarl.simulation.gymnasium import GymnasiumSimulation
from metarl.simulation.serial import SerialEnvironments
from metarl.support.errors import NonFiniteError
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey, Use
from metarl.tasks.family import make_family

HORIZON = 5
WORKERS = Workers(1)


def collect_under(simulations, policy, parameters, *rest):
    units = ActionUnits.of(simulations[0].action_space, 1.0)
    return collect(simulations, PolicyActor(policy, parameters), units, *rest)


def serial(make, number):
    return GymnasiumSimulation(SerialEnvironments(make, number))


class Counter(gymnasium.Env):
    """Shows (length, step); pays 100 × task + step; ends at its length, by `terminates` or not."""

    def __init__(self, discrete=False):
        self.task_space = spaces.Dict(number=spaces.Discrete(10))
        self.task = {"number": 0}
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (1,), np.float32)
        self.received = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.length = int(self.np_random.integers(1, HORIZON + 2))
        return self._observation(), {}

    def step(self, action):
        assert self.t < self.length, "stepped after its end"
        self.received.append(action)
        self.t += 1
        terminated = self.t == self.length
        return self._observation(), 100.0 * self.task["number"] + self.t, terminated, False, {}

    def _observation(self):
        return np.array([self.length, self.t], np.float32)


def collected(episodes=4, discrete=False, stage=0, key=None, action_bias=0.0):
    simulation = serial(
        lambda: gymnasium.wrappers.TimeLimit(Counter(discrete), HORIZON), 2 * episodes
    )
    policy = (
        Policy(MLP(2, 3), DiscreteActions(3))
        if discrete
        else Policy(MLP(2, 1), ContinuousActions(1))
    )
    parameters = policy.initial_parameters(np.random.default_rng(0))
    parameters["layer_2.bias"] += action_bias
    tasks = {"number": np.array([3, 7])}
    key = key or RandomKey(1)
    rollout = collect_under(
        [simulation], policy, expand(parameters, 2), tasks, episodes, HORIZON, key, stage, WORKERS
    )
    return simulation, policy, parameters, rollout


def test_every_number_stands_where_it_was_seen():
    _, _, _, rollout = collected()
    lengths = rollout.valid.sum(-1)
    assert len(set(lengths.flatten().tolist())) > 1, "no padding to look at"
    for task, number in enumerate([3, 7]):
        for episode in range(4):
            n = int(lengths[task, episode])
            true_length = int(rollout.final_observations[task, episode, 0])
            steps = torch.arange(n, dtype=torch.float32)
            assert rollout.valid[task, episode, :n].all()
            assert torch.equal(rollout.observations[task, episode, :n, 1], steps)
            assert torch.equal(
                rollout.rewards[task, episode, :n], 100 * number + 1 + steps.double()
            )
            assert rollout.final_observations[task, episode, 1] == n
            assert bool(rollout.terminated[task, episode]) == (n == true_length)
            for padded in (rollout.observations, rollout.actions, rollout.rewards):
                assert padded[task, episode, n:].abs().sum() == 0
    assert rollout.terminated.any()
    assert not rollout.terminated.all(), "no truncated episode to look at"
    assert rollout.env_steps == int(lengths.sum())
    assert torch.equal(rollout.returns, rollout.rewards.sum(-1))


@pytest.mark.parametrize("discrete", [False, True])
def test_actions_and_log_probs_are_the_policys(discrete):
    _, policy, parameters, rollout = collected(discrete=discrete)
    distribution = policy.distribution(expand(parameters, 2), rollout.observations)
    expected = distribution.log_prob(rollout.actions)
    torch.testing.assert_close(rollout.log_probs[rollout.valid], expected[rollout.valid])
    if discrete:
        assert rollout.actions.dtype == torch.int64
        assert set(rollout.actions[rollout.valid].tolist()) == {0, 1, 2}


def test_the_environment_gets_clipped_actions_and_the_learner_those_that_were_drawn():
    simulation, _, _, rollout = collected(action_bias=3.0)
    received = np.concatenate([env.unwrapped.received for env in simulation.environments.envs])
    assert received.max() == 1
    assert rollout.actions.max() > 2


def test_the_noise_is_a_function_of_its_name():
    key = RandomKey(1)
    same = collected(key=key)[3]
    again = collected(key=key)[3]
    assert torch.equal(same.actions, again.actions)
    assert not torch.equal(same.actions, collected(key=key, stage=1)[3].actions)
    other = RandomKey(1, iteration=1)
    assert not torch.equal(same.actions, collected(key=other)[3].actions)
    # Tasks and episodes do not share noise either.
    first = same.actions[:, :, 0].flatten().tolist()
    assert len(set(first)) == len(first)


def test_threads_change_no_task_no_reset_and_no_noise():
    family = make_family("envs:HalfCheetahDir-v0", horizon=10)
    key = RandomKey(5)
    tasks = family.sample_tasks(2, key)
    policy = Policy(MLP(17, 6), ContinuousActions(6))
    parameters = expand(policy.initial_parameters(key.generator(Use.PARAMETERS)), 2)
    one, two, whole = (
        collect_under(simulations, policy, parameters, tasks, 3, 10, key, 0, Workers(threads))
        for threads, simulations in [
            (1, make_simulations(family, 2, 3, 1)),
            (2, make_simulations(family, 2, 3, 2)),
            (2, [make_simulation(family, 6, 2)]),
        ]
    )
    assert one.success is two.success is None
    others = ("unstable", "success", "values", "info", "shard")
    for name in (f.name for f in dataclasses.fields(one) if f.name not in others):
        assert torch.equal(getattr(one, name), getattr(two, name))
        # A product over more tasks gives each the same bits, as its rows are filled up.
        assert torch.equal(getattr(one, name), getattr(whole, name))


def test_fewer_environments_take_the_tasks_in_rounds():
    """Each task has the numbers that it has beside all others."""
    policy = Policy(MLP(2, 1), ContinuousActions(1))
    parameters = expand(policy.initial_parameters(np.random.default_rng(0)), 6)
    tasks = {"number": np.array([3, 7, 1, 2, 9, 4])}

    def of(*sizes):
        simulations = [
            serial(lambda: gymnasium.wrappers.TimeLimit(Counter(False), HORIZON), 4 * n)
            for n in sizes
        ]
        return collect_under(
            simulations, policy, parameters, tasks, 4, HORIZON, RandomKey(1), 0, WORKERS
        )

    whole = of(6)
    for rollout in (of(2), of(1), of(1, 2)):
        for name in ("valid", "rewards", "terminated"):
            assert torch.equal(getattr(rollout, name), getattr(whole, name)), name
        torch.testing.assert_close(rollout.actions, whole.actions)


def test_an_evaluation_has_no_more_environments_at_once_than_training(monkeypatch):
    """Where they are stepped one at a time."""
    made = []

    def make(family, tasks, episodes, *arguments):
        made.append(tasks * episodes)
        return make_simulations(family, tasks, episodes, *arguments)

    monkeypatch.setattr(simulations, "make_simulations", make)
    monkeypatch.setattr(simulations, "LEAST_ENVIRONMENTS", 1)
    small = {"meta_batch_size": 6, "episodes": 2, "horizon": 4, "hidden_sizes": (4,)}
    learner = Learner(Config("faulty_families:Line-v0", **small))
    learner.iterate()
    rounds = learner.evaluate(24, 1, adaptations=2).returns
    assert made == [12], "48 adaptations are eight rounds of six"
    whole = Learner(Config("faulty_families:Line-v0", **small))
    whole.simulations._one_by_one = False
    whole.iterate()
    assert made == [12, 12]
    np.testing.assert_allclose(rounds, whole.evaluate(24, 1, adaptations=2).returns, rtol=1e-5)
    assert made == [12, 12, 96]
    learner.evaluate(7, 1, adaptations=1)
    assert made[3:] == [2], "a divisor of seven"


def test_a_batch_of_episodes_restarts_wholly_at_the_next_collection():
    family = make_family("envs:Navigation2D-v0", horizon=8)
    simulation = make_simulation(family, 6)
    policy = Policy(MLP(2, 2), ContinuousActions(2))
    parameters = expand(policy.initial_parameters(np.random.default_rng(0)), 2)
    tasks = family.sample_tasks(2, RandomKey(0))
    one, two = (
        collect_under([simulation], policy, parameters, tasks, 3, 8, RandomKey(0), 0, WORKERS)
        for _ in range(2)
    )
    assert torch.equal(one.rewards, two.rewards)
    assert one.valid.all()


def test_shares_of_different_lengths_are_padded_to_one():
    """Two simulations, one of which ends early, are the same as one."""
    key, tasks = RandomKey(1), {"number": np.array([3, 7])}

    def simulation(number):
        return serial(lambda: gymnasium.wrappers.TimeLimit(Counter(), HORIZON), number)

    policy = Policy(MLP(2, 1), ContinuousActions(1))
    parameters = expand(policy.initial_parameters(np.random.default_rng(0)), 2)
    lengths = set()
    for stage in range(20):
        one, two = (
            collect_under(s, policy, parameters, tasks, 1, HORIZON, key, stage, WORKERS)
            for s in ([simulation(2)], [simulation(1), simulation(1)])
        )
        lengths.add(tuple(one.valid.sum(-1).flatten().tolist()))
        for name in ("observations", "actions", "log_probs", "rewards", "valid", "terminated"):
            assert torch.equal(getattr(one, name), getattr(two, name))
    assert any(a != b for a, b in lengths), "no different lengths to look at"


class Broken(Counter):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, np.nan, *rest


def test_a_reward_that_is_not_a_number_is_an_error():
    simulation = serial(Broken, 2)
    policy = Policy(MLP(2, 1), ContinuousActions(1))
    parameters = expand(policy.initial_parameters(np.random.default_rng(0)), 2)
    tasks = {"number": np.array([3, 7])}
    message = r"the environment gave a reward that is not finite: nan at step 0 of an episode"
    rollout = collect_under([simulation], policy, parameters, tasks, 1, 9, RandomKey(0), 0, WORKERS)
    with pytest.raises(NonFiniteError, match=message) as error:
        expect_finite_rollout(rollout)
    assert error.value.tasks == (0, 1)


class Successful(Counter):
    """Succeeds at its second step alone, if its task is even; says nothing at its first."""

    def step(self, action):
        *result, _ = super().step(action)
        info = {"success": float(self.t == 2 and self.task["number"] % 2 == 0)}
        return *result, info if self.t > 1 else {}


def test_success_is_told_by_episode_and_by_metric():
    simulation = serial(lambda: gymnasium.wrappers.TimeLimit(Successful(), HORIZON), 2 * 4)
    policy = Policy(MLP(2, 1), ContinuousActions(1))
    parameters = expand(policy.initial_parameters(np.random.default_rng(0)), 2)
    tasks = {"number": np.array([4, 7])}
    rollout = collect_under(
        [simulation], policy, parameters, tasks, 4, HORIZON, RandomKey(2), 0, WORKERS
    )
    long_enough = rollout.valid.sum(-1) >= 2
    assert 0 < long_enough[0].sum() < 4, "both kinds are there to see"
    assert torch.equal(rollout.success[0], long_enough[0])
    assert not rollout.success[1].any()
    assert torch.equal(rollout[1:].success, rollout.success[1:])
    assert collected()[3].success is None


def test_success_rates_are_metrics_of_the_families_that_tell():
    options = {"meta_batch_size": 3, "episodes": 2, "horizon": 4, "hidden_sizes": (4,)}
    for name, told in (("Slippery", True), ("Line", False)):
        learner = Learner(Config(f"faulty_families:{name}-v0", **options))
        rollouts = []
        learner.sample = lambda *a, s=learner.sample, r=rollouts: r.append(s(*a)) or r[-1]
        metrics = learner.iterate() | learner.evaluate(3).metrics()
        keys = ("success/before", "success/after", "test/step_0/success", "test/step_1/success")
        for key in keys:
            assert (key in metrics) == told
        for key, rollout in zip(keys if told else (), rollouts, strict=False):
            assert metrics[key] == pytest.approx(float(rollout.success.float().mean()))
