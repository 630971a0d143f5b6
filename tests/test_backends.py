"""The choice of what steps a run's environments, and a backend of another package."""

import importlib.metadata
import subprocess
import sys
from importlib.metadata import EntryPoint

import gymnasium
import numpy as np
import pytest
import torch

import metarl
import metarl.simulation.backends as backends
from metarl.simulation.backends import choose_backend, make_simulation, make_simulations
from metarl.simulation.gymnasium import GymnasiumSimulation
from metarl.simulation.protocol import Step
from metarl.support.errors import UsageError
from metarl.support.randomness import RandomKey
from metarl.tasks.family import make_family

LINE = "faulty_families:Line-v0"
CHEETAH = "envs:HalfCheetahDir-v0"


class Still:
    """A simulation of another package: nothing moves, for 3 steps."""

    device = torch.device("cpu")

    def __init__(self, family, num_envs):
        self.num_envs = num_envs
        self.observation_space = family.prototype.observation_space
        self.action_space = family.prototype.action_space

    def begin(self, tasks, streams):
        self.t = 0
        return torch.zeros(self.num_envs, *self.observation_space.shape)

    def step(self, actions):
        self.t += 1
        no = torch.zeros(self.num_envs, dtype=torch.bool)
        still = torch.zeros(self.num_envs, *self.observation_space.shape)
        rewards = torch.ones(self.num_envs, dtype=torch.float64)
        return Step(still, rewards, no, no | (self.t >= 3), no, None)

    def close(self):
        self.closed = True


class StillBackend:
    def refusal(self, family):
        return None if family.id == CHEETAH else "it is no cheetah"

    def preference(self, family, num_envs):
        return 2.0 if num_envs >= 100 else -1.0

    def shares(self, family):
        return 1

    def make(self, family, num_envs, threads, processes):
        return Still(family, num_envs)


@pytest.fixture
def announced(monkeypatch):
    """A package that announces the backend `still`."""
    entry = EntryPoint("still", "test_backends:StillBackend", backends.BACKENDS.group)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [entry] * (group == entry.group)
    )
    backends.make_backend.cache_clear()
    yield
    backends.make_backend.cache_clear()


@pytest.mark.parametrize(
    ("id", "simulation", "expected"),
    [
        (CHEETAH, "auto", "batch"),
        (CHEETAH, "gymnasium", "gymnasium"),
        ("envs:Navigation2D-v0", "auto", "batch"),
        ("envs:PendulumParams-v0", "auto", "gymnasium"),
        (LINE, "auto", "gymnasium"),
    ],
)
def test_the_run_chooses(id, simulation, expected):
    assert choose_backend(make_family(id), 4, simulation)[0] == expected


def test_an_impossible_choice_is_one_line():
    with pytest.raises(
        UsageError,
        match=r"^--simulation batch cannot step faulty_families:Line-v0: it is not a ",
    ):
        make_simulations(make_family(LINE), 2, 2, 1, simulation="batch")
    with pytest.raises(
        UsageError,
        match=r"^--simulation bach must be one of auto, batch, gymnasium, warp, or MODULE:CLASS; ",
    ):
        make_simulation(make_family(CHEETAH), 2, simulation="bach")


def test_every_backend_has_the_same_episodes():
    family = make_family("envs:ReacherGoal-v0", horizon=4)
    tasks, streams = family.sample_tasks(3, RandomKey(0)), np.array([1, 2, 2**63 - 1])
    one, other = (make_simulation(family, 3, simulation=s) for s in ("batch", "gymnasium"))
    assert isinstance(other, GymnasiumSimulation)
    assert torch.equal(one.begin(tasks, streams), other.begin(tasks, streams))
    for _ in range(6):
        ours, theirs = (s.step(torch.ones(3, 2)) for s in (one, other))
        for left, right in zip(ours[:5], theirs[:5], strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=0)


def test_tasks_are_divided_as_the_backend_says():
    batch = make_simulations(make_family(CHEETAH), 5, 3, 1)
    assert [s.num_envs for s in batch] == [9, 6]
    assert [s.num_envs for s in make_simulations(make_family(CHEETAH), 1, 3, 1)] == [3]
    assert [s.num_envs for s in make_simulations(make_family(LINE), 5, 3, 1)] == [15]


@pytest.mark.usefixtures("announced")
def test_a_backend_of_another_package_needs_no_edit():
    cheetah = make_family(CHEETAH)
    assert choose_backend(cheetah, 99)[0] == "batch"
    assert choose_backend(cheetah, 100)[0] == "still"
    assert isinstance(make_simulation(cheetah, 2, simulation="still"), Still)
    with pytest.raises(UsageError, match=r"still cannot step faulty_families:Line-v0: it is no ch"):
        make_simulation(make_family(LINE), 2, simulation="still")
    assert (
        choose_backend(cheetah, 2, "test_backends:StillBackend")[0] == "test_backends:StillBackend"
    )
    with pytest.raises(UsageError, match=r"must be one of auto, batch, gymnasium, warp, still"):
        make_simulation(cheetah, 2, simulation="x")


def test_a_family_with_an_attribute_of_the_same_name_is_not_a_declared_one():
    class Own(gymnasium.Env):
        family = "my own"
        observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        task_space = gymnasium.spaces.Dict(goal=gymnasium.spaces.Box(-1.0, 1.0, ()))
        task = {"goal": 0.0}

    gymnasium.register("OwnFamily-v0", Own, max_episode_steps=3)
    try:
        assert choose_backend(make_family("OwnFamily-v0"), 4)[0] == "gymnasium"
    finally:
        del gymnasium.registry["OwnFamily-v0"]


def test_a_closed_simulation_says_so():
    simulation = make_simulation(make_family(LINE), 2)
    simulation.close()
    simulation.close()
    with pytest.raises(UsageError, match="the simulation is closed"):
        simulation.begin({"goal": np.zeros(2)}, np.arange(2))


def test_gymnasiums_own_vectorisation_takes_a_declared_family():
    envs = gymnasium.make_vec("envs:ReacherGoal-v0", 2, vectorization_mode="sync")
    first, _ = envs.reset(seed=3)
    single = gymnasium.make("envs:ReacherGoal-v0")
    np.testing.assert_array_equal(first[1], single.reset(seed=4)[0])


@pytest.mark.parametrize("id", [CHEETAH, "envs:Navigation2D-v0"])
def test_to_make_an_environment_takes_no_torch(id):
    code = f"""
import sys, types, gymnasium
sys.modules["metarl"] = types.ModuleType("metarl")  # without the public names, which take torch
sys.modules["metarl"].__path__ = {metarl.__path__!r}
env = gymnasium.make({id!r})
assert env.unwrapped.task_space and env.action_space
assert "torch" not in sys.modules and "matplotlib" not in sys.modules
env.reset(seed=0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_resets_without_a_seed_differ_and_follow_from_the_first():
    env = gymnasium.make("envs:ReacherGoal-v0")
    episodes = [[env.reset(seed=s)[0].tolist() for s in (5, None, None)] for _ in range(2)]
    assert episodes[0] == episodes[1]
    assert len({tuple(first) for first in episodes[0]}) == 3


class Doubled(gymnasium.RewardWrapper):
    def __init__(self, render_mode=None):
        super().__init__(gymnasium.make("envs:Navigation2D-v0", render_mode=render_mode).unwrapped)

    def reward(self, reward):
        return 2 * reward


def test_a_wrapper_around_a_declared_environment_is_stepped_too():
    gymnasium.register("Doubled-v0", Doubled, max_episode_steps=100)
    family = make_family("Doubled-v0", 5)
    assert choose_backend(family, 100)[0] == "gymnasium"
    with pytest.raises(UsageError, match="Doubled has code of its own"):
        choose_backend(family, 100, "batch")
    task = {"goal": np.array([[0.3, 0.2]])}
    rewards = []
    for id in ("Doubled-v0", "envs:Navigation2D-v0"):
        simulation = make_simulation(make_family(id, 5), 1)
        simulation.begin(task, np.array([3]))
        rewards.append(float(simulation.step(torch.zeros(1, 2)).rewards[0]))
        simulation.close()
    assert rewards[0] == 2 * rewards[1] != 0
    del gymnasium.registry["Doubled-v0"]
