"""The contract of a task family, over all that are registered: a new one is covered unedited."""

import functools
import inspect

import gymnasium
import numpy as np
import pytest
import torch

from metarl.simulation.checker import CHECKS, check_family
from metarl.simulation.gymnasium import make_simulation
from metarl.support.randomness import RandomKey
from metarl.tasks.declaration import DeclaredFamily
from metarl.tasks.family import make_family, registered_families
from metarl.tasks.task import select_tasks

FAMILIES = registered_families()
STEPS = 30


@functools.cache
def family_of(name):
    return make_family(name, horizon=STEPS - 5)


@pytest.fixture(params=FAMILIES)
def family(request):
    return family_of(request.param)


def random_actions(space, number, seed=0):
    space.seed(seed)
    return np.stack([space.sample() for _ in range(number)])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_check_passes(name, monkeypatch):
    """But for the spawned process, which one test below starts."""
    monkeypatch.delitem(CHECKS, "pickles")
    for finding in check_family(family_of(name)):
        assert finding.passed, finding


@pytest.mark.parametrize("threads", [1, 2])
def test_the_vector_environment_agrees_with_single_ones(family, threads):
    tasks, seeds = family.sample_tasks(3, RandomKey(4)), [5, 6, 7]
    vector = make_simulation(family, 3, threads)
    vector.task = tasks
    observations, _ = vector.reset(seed=seeds)
    singles = [family.make() for _ in range(3)]
    ended = np.zeros(3, bool)
    for i, env in enumerate(singles):
        env.unwrapped.task = select_tasks(tasks, i)
        np.testing.assert_array_equal(env.reset(seed=seeds[i])[0], observations[i])
    for t in range(STEPS):
        actions = random_actions(family.prototype.action_space, 3, seed=t)
        observations, rewards, terminated, truncated, _ = vector.step(actions)
        for i, env in enumerate(singles):
            if ended[i]:
                assert rewards[i] == 0
                continue
            x, reward, *flags, _ = env.step(actions[i])
            np.testing.assert_array_equal(np.asarray(x), observations[i])
            # Each task's numbers are the same in a batch; the order of a sum may differ.
            assert reward == pytest.approx(rewards[i], rel=1e-12)
            assert flags == [terminated[i], truncated[i]]
        ended = terminated | truncated
    assert ended.all(), "the horizon was not kept"


def test_every_space_is_what_the_environment_gives(family):
    env = family.make()
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape
    assert observation.dtype == env.observation_space.dtype
    vector = make_simulation(family, 2)
    observations, _ = vector.reset(seed=0)
    assert observations in vector.observation_space
    assert vector.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED


DECLARED = [
    name for name in FAMILIES
    if isinstance(getattr(family_of(name).prototype.unwrapped, "family", None), DeclaredFamily)
]  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_declared_functions_take_numpy_and_torch_alike(name, batch):
    """The same numbers from float64 arrays of either kind, for any batch shape."""
    declaration = family_of(name).prototype.unwrapped.family
    physics = family_of(name).prototype.unwrapped.physics
    generator = np.random.default_rng(0)

    def stacked(make):
        values = np.stack([np.asarray(make()) for _ in range(int(np.prod(batch)))])
        return values.reshape((*batch, *values.shape[1:]))

    def random_state():
        example = physics.state()
        if isinstance(example, np.ndarray):
            return generator.normal(size=(*batch, *example.shape[1:]))
        fields = {
            name: generator.normal(size=(*batch, *value.shape[1:]))
            for name, value in vars(example).items()
        }
        return type(example)(**fields)

    before, after = random_state(), random_state()
    control = stacked(physics.action_space.sample)
    if control.dtype.kind == "f":
        control = control.astype(np.float64)
    tasks = family_of(name).sample_tasks(int(np.prod(batch)), RandomKey(0))
    task = {k: v.reshape((*batch, *v.shape[1:])) for k, v in tasks.items()}

    def as_torch(value):
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        return type(value)(**{k: torch.from_numpy(v) for k, v in vars(value).items()})

    torch_task = {k: torch.from_numpy(np.asarray(v)) for k, v in task.items()}
    results = [
        (declaration.observe(after), declaration.observe(as_torch(after))),
        (
            declaration.reward(before, control, after, task),
            declaration.reward(*map(as_torch, (before, control, after)), torch_task),
        ),
        (declaration.terminated(after, task), declaration.terminated(as_torch(after), torch_task)),
    ]
    if hasattr(declaration, "transition"):
        noise = generator.random((*batch, declaration.noise_size))
        results.append(
            (
                declaration.transition(before, control, task, noise),
                declaration.transition(
                    *map(as_torch, (before, control)), torch_task, as_torch(noise)
                ),
            )
        )
    for ours, theirs in results:
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert isinstance(theirs, torch.Tensor)
            assert np.shape(ours)[: len(batch)] == batch
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12)


def test_entry_points_are_strings_so_that_a_spec_fits_in_a_file():
    for name in FAMILIES:
        spec = gymnasium.spec(name)
        assert isinstance(spec.entry_point, str)
        assert spec.vector_entry_point is None or isinstance(spec.vector_entry_point, str)
        assert gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()) == spec


def test_every_option_of_a_declared_family_is_documented():
    for name in DECLARED:
        declaration = type(family_of(name).prototype.unwrapped.family)
        assert inspect.getdoc(declaration), name


def test_navigation_by_hand():
    """Start 0, steps clipped at .1, −‖x − goal‖ after the move, the end within .01 of the goal."""
    env = gymnasium.make("envs:Navigation2D-v0")
    env.unwrapped.task = {"goal": [0.2, 0.1]}
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [0, 0]
    observation, reward, terminated, _, _ = env.step(np.array([0.5, 0.1], np.float32))
    np.testing.assert_allclose(observation, [0.1, 0.1], atol=1e-8)
    assert reward == pytest.approx(-0.1)
    assert not terminated
    _, reward, terminated, _, _ = env.step(np.array([0.095, 0.0], np.float32))
    assert reward == pytest.approx(-0.005)
    assert terminated


def test_beyond_is_outside_the_training_range():
    key = RandomKey(0)
    goals = make_family("envs:Navigation2D-v0").sample_tasks(200, key, "beyond")["goal"]
    assert (np.abs(goals).max(axis=1) > 0.5).all()
    speeds = make_family("envs:HalfCheetahVel-v0", maximum_velocity=3.0)
    assert speeds.sample_tasks(200, key, "beyond")["velocity"].min() > 3
    train = speeds.sample_tasks(2000, key, "train")["velocity"]
    assert train.max() <= 3
    assert train.mean() == pytest.approx(1.5, abs=0.06)


def test_directions_are_bernoulli():
    tasks = make_family("envs:HalfCheetahDir-v0").sample_tasks(2000, RandomKey(0))
    assert set(tasks["direction"]) == {-1.0, 1.0}
    assert abs(tasks["direction"].mean()) < 0.07
