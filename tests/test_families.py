"""The contract of a task family, over all that are registered: a new one is covered unedited."""

import functools
import inspect

import gymnasium
import numpy as np
import pytest
import torch

from metarl.simulation.backends import make_simulation
from metarl.simulation.checker import check_family
from metarl.simulation.checks import CHECKS
from metarl.simulation.declared import DeclaredSimulation
from metarl.simulation.dynamics import DynamicsPhysics
from metarl.support.randomness import RandomKey
from metarl.tasks.declaration import DeclaredFamily, DynamicsFamily, MujocoFamily
from metarl.tasks.family import make_family
from metarl.tasks.noise import Noise, Purpose
from metarl.tasks.registry import registered_families
from metarl.tasks.task import select_tasks

OF_TESTS = "Sled-v0"  # the environment of faulty families, which another test may have imported
FAMILIES = [
    name
    for name in registered_families()
    if gymnasium.registry[name].kwargs.get("env_id") != OF_TESTS
]
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
def test_a_simulation_agrees_with_single_environments(family, threads):
    tasks, seeds = family.sample_tasks(3, RandomKey(4)), [5, 6, 7]
    simulation = make_simulation(family, 3, threads)
    observations = simulation.begin(tasks, np.array(seeds))
    singles = [family.make() for _ in range(3)]
    ended = np.zeros(3, bool)
    for i, env in enumerate(singles):
        env.unwrapped.task = select_tasks(tasks, i)
        np.testing.assert_array_equal(env.reset(seed=seeds[i])[0], observations[i])
    for t in range(STEPS):
        actions = random_actions(family.prototype.action_space, 3, seed=t)
        observations, rewards, terminated, truncated, *_ = simulation.step(
            torch.from_numpy(actions)
        )
        for i, env in enumerate(singles):
            if ended[i]:
                assert rewards[i] == 0
                continue
            x, reward, *flags, _ = env.step(actions[i])
            np.testing.assert_array_equal(np.asarray(x), observations[i])
            # Each task's numbers are the same in a batch; the order of a sum may differ.
            assert reward == pytest.approx(float(rewards[i]), rel=1e-12)
            assert flags == [terminated[i], truncated[i]]
        ended = terminated | truncated
    assert ended.all(), "the horizon was not kept"


def test_every_space_is_what_the_environment_gives(family):
    env = family.make()
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape
    assert observation.dtype == env.observation_space.dtype
    simulation = make_simulation(family, 2)
    observations = simulation.begin(family.sample_tasks(2, RandomKey(0)), np.arange(2))
    assert observations[1].numpy() in simulation.observation_space
    assert simulation.observation_space == env.observation_space
    assert simulation.action_space == env.action_space
    step = simulation.step(torch.from_numpy(random_actions(env.action_space, 2)))
    assert observations.dtype == step.observations.dtype
    assert step.rewards.dtype == torch.float64
    assert all(flags.dtype == torch.bool for flags in step[2:5])


DECLARED = [
    name for name in FAMILIES
    if isinstance(getattr(family_of(name).prototype.unwrapped, "family", None), DeclaredFamily)
]  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_declared_functions_take_numpy_and_torch_alike(name, batch):
    """The same numbers from float64 arrays of either kind, for any batch shape."""
    declaration = family_of(name).prototype.unwrapped.family
    env = family_of(name).prototype.unwrapped
    env.reset(seed=0)
    physics = env.physics
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
    physics.action_space.seed(0)
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
    streams = np.arange(int(np.prod(batch))).reshape(batch)
    noises = [Noise(kind, Purpose.RESET) for kind in (streams, torch.from_numpy(streams))]
    if isinstance(declaration, MujocoFamily):
        results += zip(
            declaration.initial(noises[0], before.qpos, before.qvel),
            declaration.initial(noises[1], *map(torch.from_numpy, (before.qpos, before.qvel))),
            strict=True,
        )
    else:
        results.append(tuple(declaration.initial(noise) for noise in noises))
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


DYNAMICS = [
    name for name in DECLARED
    if isinstance(family_of(name).prototype.unwrapped.family, DynamicsFamily)
]  # fmt: skip


@pytest.mark.parametrize("name", DYNAMICS)
def test_dynamics_on_a_device_are_those_in_numpy(name, device):
    """As tensors, which `begin` places on the device and no step takes from there."""
    family, number, place = family_of(name), 4, torch.device(device)
    declaration = family.prototype.unwrapped.family
    simulations = [
        DeclaredSimulation(declaration, DynamicsPhysics(declaration, number), number, 10, where)
        for where in (None, place)
    ]
    tasks = family.sample_tasks(number, RandomKey(1))
    first, other = (s.begin(tasks, np.arange(number)) for s in simulations)
    torch.testing.assert_close(other.cpu(), first, rtol=1e-12, atol=1e-12)
    for t in range(10):
        actions = torch.from_numpy(random_actions(family.prototype.action_space, number, t))
        first = simulations[0].step(actions)
        other = simulations[1].step(actions.to(place))
        for one, two in zip(first[:5], other[:5], strict=True):
            torch.testing.assert_close(two.cpu(), one, rtol=1e-9, atol=1e-9)
            assert two.device.type == place.type


@pytest.mark.parametrize("name", DYNAMICS)
def test_no_step_of_dynamics_looks_at_a_value(name):
    """Tensors on the device `meta` have none; a GPU would have to stop for each look."""
    family, nowhere = family_of(name), torch.device("meta")
    declaration = family.prototype.unwrapped.family
    simulation = DeclaredSimulation(declaration, DynamicsPhysics(declaration, 4), 4, 10, nowhere)
    simulation.begin(family.sample_tasks(4, RandomKey(1)), np.arange(4))
    actions = torch.from_numpy(random_actions(family.prototype.action_space, 4)).to(nowhere)
    for _ in range(2):
        step = simulation.step(actions)
        assert all(part.device == nowhere for part in step[:5])


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


HORIZONS = {
    100: ("HalfCheetahDir", "HalfCheetahVel", "Navigation2D"),
    200: ("AntDir", "AntDir2D", "AntVel", "AntGoal"),
    20: ("SparsePointRobot",),
    15: ("GridNavigation",),
    1: ("BernoulliBandit", "GaussianBandit"),
    10: ("TabularMDP",),
}
"""Steps of an episode, as the sources of the families and of the results have them."""


@pytest.mark.parametrize("horizon", HORIZONS)
def test_episodes_have_the_length_of_their_sources(horizon):
    for name in HORIZONS[horizon]:
        assert make_family(f"envs:{name}-v0").horizon == horizon, name


RANGES = {
    "AntDir2D": {"angle": (0, 2 * np.pi)},
    "AntVel": {"velocity": (0, 3)},
    "HumanoidDir": {"angle": (0, 2 * np.pi)},
    "Walker2dVel": {"velocity": (0, 10)},
    "SwimmerVel": {"velocity": (0.1, 0.2)},
    "CartPoleParams": {"cart_mass": (0.5, 2), "pole_mass": (0.05, 0.2)},
    "SparsePointRobot": {"angle": (0, np.pi)},
    "HopperParams": {"mass_scale": (1.5**-3, 1.5**3), "damping_scale": (1.3**-3, 1.3**3)},
}
RADII = {"AntGoal": 3.0, "ReacherGoal": 0.2}


@pytest.mark.parametrize("name", [*RANGES, *RADII])
def test_tasks_of_training_fill_their_published_range(name):
    tasks = make_family(f"envs:{name}-v0").sample_tasks(400, 0)
    drawn = {
        parameter: (tasks[parameter], *ends) for parameter, ends in RANGES.get(name, {}).items()
    }
    if name in RADII:  # squares of distances are uniform in a disc
        drawn = {"goal": ((tasks["goal"] ** 2).sum(1), 0, RADII[name] ** 2)}
    for values, low, high in drawn.values():
        margin = 0.05 * (high - low)
        assert low <= values.min() < low + margin
        assert high - margin < values.max() <= high


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("Walker2dVel", "Walker2d-v5"),
        ("HopperParams", "Hopper-v5"),
        ("HumanoidDir", "Humanoid-v5"),
        ("SwimmerVel", "Swimmer-v5"),
    ],
)
def test_first_states_are_spread_as_gymnasiums(name, reference):
    reference = gymnasium.make(reference).unwrapped
    declaration = make_family(f"envs:{name}-v0").declaration
    assert declaration.reset_noise == reference._reset_noise_scale


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
