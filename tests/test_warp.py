"""mujoco-warp steps as MuJoCo does: on its CPU device, and on a GPU where there is one.

The first run compiles warp's kernels for a minute or two; they stay in warp's cache.
"""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch

from metarl import Config, Learner
from metarl.simulation import backends
from metarl.simulation.backends import choose_backend, make_simulation
from metarl.simulation.device import make_device_simulation
from metarl.simulation.mujoco import LoopPhysics
from metarl.simulation.physics import WarpOptions
from metarl.support.errors import UsageError
from metarl.support.randomness import RandomKey
from metarl.tasks.family import make_family

mujoco_warp = pytest.importorskip("mujoco_warp", reason='it needs pip install "metarl-suite[gpu]"')

CHEETAH = "envs:HalfCheetahDir-v0"
ON_ANY = torch.device("cuda" if torch.cuda.is_available() else "cpu")

SLOW = pytest.mark.slow  # each model has kernels of its own to compile
EVERY_MODEL = [
    CHEETAH,
    "envs:HopperParams-v0",  # RK4, and models that differ from world to world
    pytest.param("envs:Walker2dParams-v0", marks=SLOW),
    pytest.param("envs:SwimmerVel-v0", marks=SLOW),
    pytest.param("envs:ReacherGoal-v0", marks=SLOW),
    pytest.param("envs:AntDir-v0", marks=SLOW),
    pytest.param("envs:HumanoidDir-v0", marks=SLOW),
]
CHAOTIC = "envs:AntDir-v0", "envs:HumanoidDir-v0"
"""Their contacts differ in the last bits, which shows after ten steps."""


def pair(id, number, horizon=100):
    """The family on warp and on MuJoCo's batch, begun alike."""
    family = make_family(id, horizon=horizon)
    tasks, streams = family.sample_tasks(number, RandomKey(0)), np.arange(number)
    both = [make_simulation(family, number, 1, simulation=s) for s in ("warp", "batch")]
    return both, [simulation.begin(tasks, streams).cpu().clone() for simulation in both]


def random_actions(simulation, steps, deviation=3.0):
    generator = torch.Generator().manual_seed(0)
    shape = steps, simulation.num_envs, *simulation.action_space.shape
    return deviation * torch.randn(shape, generator=generator)


def copied(step):
    return type(step)(*(None if x is None else x.cpu().clone() for x in step))


def cheetah(number, horizon=100, family=None, **options):
    declared = family or make_family(CHEETAH).declaration
    simulation = make_device_simulation(
        declared, number, horizon, ON_ANY, (), WarpOptions(**options)
    )
    simulation.begin({"direction": np.tile([1.0, -1.0], number)[:number]}, np.arange(number))
    return simulation


def still(simulation):
    return simulation.step(
        torch.zeros(simulation.num_envs, *simulation.action_space.shape, device=simulation.device)
    )


@pytest.mark.parametrize("id", EVERY_MODEL)
def test_it_steps_as_mujoco_does(id):
    (ours, theirs), first = pair(id, 16)
    torch.testing.assert_close(first[0].double(), first[1], rtol=0, atol=1e-5)
    actions = random_actions(ours, 100)
    returns = torch.zeros(2, 16, dtype=torch.float64)
    for t, action in enumerate(actions):
        mine, other = copied(ours.step(action.to(ours.device))), copied(theirs.step(action))
        returns += torch.stack([mine.rewards, other.rewards])
        apart = (mine.observations - other.observations).abs().amax(-1)
        if t == 0:
            assert apart.max() < 1e-3, "of an observation that has contact forces too"
            assert (mine.rewards - other.rewards).abs().max() < 1e-5
    ours.finish()
    if id not in CHAOTIC:
        assert apart.median() < 1e-3
        assert torch.equal(mine.terminated, other.terminated)
    assert mine.truncated.all() or mine.terminated.any()
    mean, error = returns.mean(1), returns.std(1) / 16**0.5
    assert abs(mean[0] - mean[1]) < 4 * error.square().sum().sqrt()


def test_each_world_has_a_model_of_its_own():
    family = make_family("envs:HopperParams-v0")
    tasks = family.sample_tasks(3, RandomKey(1))
    streams, action = np.array([7, 7, 7]), torch.ones(3, 3, device=ON_ANY)

    def after(order, number=3):
        simulation = make_simulation(family, number, simulation="warp")
        simulation.begin({n: x[order] for n, x in tasks.items()}, streams[:number])
        for _ in range(5):
            step = simulation.step(action[:number])
        return step.observations.cpu().clone()

    one, turned = after([0, 1, 2]), after([2, 0, 1])
    assert torch.equal(one[[2, 0, 1]], turned)
    assert (one[0] - one[1]).abs().max() > 1e-3
    simulation = make_simulation(family, 3, simulation="warp")
    simulation.begin(tasks, streams)
    again = {name: values[[1, 1, 1]] for name, values in tasks.items()}
    simulation.begin(again, streams)
    for _ in range(5):
        step = simulation.step(action)
    torch.testing.assert_close(step.observations.cpu(), one[[1, 1, 1]], rtol=0, atol=1e-6)


def test_ended_episodes_rest_and_begin_anew():
    class Stops(type(make_family(CHEETAH).declaration)):
        def terminated(self, state, task):
            return task["direction"] > 0

    simulation = cheetah(4, 3, Stops())
    first, second, third = (copied(still(simulation)) for _ in range(3))
    assert first.terminated.tolist() == third.terminated.tolist() == [True, False, True, False]
    assert third.truncated.tolist() == [False, True, False, True]
    assert second.truncated.tolist() == [False] * 4
    for after in (second, third):
        assert torch.equal(after.observations[::2], first.observations[::2])
        assert not torch.equal(after.observations[1], first.observations[1])
        assert after.rewards[::2].tolist() == [0, 0]
        assert after.rewards[1] != 0
    simulation.begin({"direction": np.array([1.0, -1.0, 1.0, -1.0])}, np.arange(4))
    again = copied(still(simulation))
    for mine, other in zip(again, first, strict=True):
        assert mine is other or torch.equal(mine, other)


@pytest.mark.parametrize("wild", [1e5, 1e12, float("nan")])
def test_a_world_that_fails_goes_back_to_its_last_good_state_and_rests(wild):
    simulation, undisturbed = cheetah(3), cheetah(3)
    good = copied(still(simulation)).observations
    still(undisturbed)
    simulation.physics._integrated["qvel"][1] = wild
    step = copied(still(simulation))
    assert step.failed.tolist() == step.truncated.tolist() == [False, True, False]
    assert not step.terminated.any()
    assert step.rewards[1] == 0
    assert torch.equal(step.observations[1], good[1])
    for _ in range(3):
        last, other = copied(still(simulation)), copied(still(undisturbed))
    other = copied(still(undisturbed))
    simulation.finish()  # a failure is no lack of room
    assert last.failed.tolist() == [False, True, False], "it rests, and stays failed"
    assert torch.equal(last.observations[1], good[1])
    others = [0, 2]
    torch.testing.assert_close(last.observations[others], other.observations[others])
    simulation.begin({"direction": np.ones(3)}, np.arange(3))
    assert not copied(still(simulation)).truncated.any()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"contacts": 1}, r"room for 1 contacts, .*: give --warp-contacts 2$"),
        ({"constraints": 2}, r"room for .*2 constraints, .*: give .*--warp-constraints 4$"),
    ],
)
def test_dropped_contacts_are_an_error_that_names_the_option(options, told):
    simulation = cheetah(4, **options)
    for _ in range(20):  # it falls to the ground
        still(simulation)
    with pytest.raises(UsageError, match=f"^HalfCheetahDir: an environment has {told}"):
        simulation.finish()
    enough = cheetah(4)
    for _ in range(20):
        still(enough)
    enough.finish()


def test_a_solver_at_its_limit_is_no_lack_of_room(caplog):
    simulation = cheetah(3)
    simulation.physics._overflow[:] = int(mujoco_warp.OverflowType.ITERATIONS)
    simulation.finish()
    assert not caplog.records
    simulation.physics._overflow[1] = int(mujoco_warp.OverflowType.EPA_HORIZON)
    simulation.finish()
    simulation.finish()
    (told,) = caplog.records  # once, for no option helps
    assert told.message == "HalfCheetahDir: mujoco-warp reached a bound (EPA_HORIZON)"
    simulation.physics._overflow[2] = int(mujoco_warp.OverflowType.HFIELD)
    with pytest.raises(UsageError, match=r"dropped something \(HFIELD\).*--simulation batch"):
        simulation.finish()


def test_a_field_that_warp_does_not_have_is_named():
    class Wider(type(make_family(CHEETAH).declaration)):
        fields = ("qpos", "qvel", "contact")

    with pytest.raises(UsageError, match=r"cannot step Wider: mujoco-warp has no contact"):
        cheetah(2, family=Wider())

    class Other(type(make_family(CHEETAH).declaration)):
        model_fields = ("jnt_type",)

        def configure(self, model, task):
            return {}

    with pytest.raises(UsageError, match=r"cannot step Other: .*jnt_type"):
        cheetah(2, family=Other())


def test_without_the_package_one_line_names_the_extra(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'not installed; pip install "metarl-suite\[gpu\]"'):
        choose_backend(make_family(CHEETAH), 1, "warp")
    assert choose_backend(make_family("envs:Navigation2D-v0"), 1, "warp")[0] == "warp"


@pytest.mark.parametrize(
    ("gpu", "number", "expected"),
    [
        (False, 2048, "batch"),
        (True, 2047, "batch"),
        (True, 2048, "warp"),
    ],
)
def test_auto_takes_a_gpu_for_thousands_of_environments(monkeypatch, gpu, number, expected):
    monkeypatch.setattr(backends, "WARP_ENVS", 2048)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_backend(make_family(CHEETAH), number)[0] == expected
    assert choose_backend(make_family("envs:PendulumParams-v0"), number)[0] == "gymnasium"


@SLOW
def test_a_short_run_learns_and_its_policy_is_worth_the_same_on_mujoco():
    config = Config(
        CHEETAH,
        simulation="warp",
        meta_batch_size=10,
        episodes=10,
        horizon=50,
        hidden_sizes=(32,),
        max_kl=0.03,
    )
    learner = Learner(config)
    *_, last = learner.learn(12)
    assert last["return/gain"] > 8
    assert abs(last["return/before"]) < 5, "one policy cannot run both ways"
    other = Learner(replace(config, simulation="batch"))
    other.load_state(learner.state())
    returns = np.stack([x.evaluate(tasks=40, steps=1).returns[1] for x in (learner, other)])
    mean, error = returns.mean(1), returns.std(1) / 40**0.5
    assert abs(mean[0] - mean[1]) < 4 * np.hypot(*error)
    assert mean.min() > 5


def test_a_short_run_learns():
    config = Config(
        CHEETAH,
        simulation="warp",
        meta_batch_size=10,
        episodes=10,
        horizon=40,
        hidden_sizes=(32,),
        max_kl=0.1,
        inner_lr=0.5,
        seed=1,
    )
    gains = [metrics["return/gain"] for metrics in Learner(config).learn(6)]
    print(gains)
    assert np.mean(gains[:2]) < 3
    assert np.mean(gains[-2:]) > 5


@SLOW
def test_a_trained_ant_is_worth_the_same_on_mujoco():
    """Before and after adaptation on MuJoCo, 64 worlds of each."""
    config = Config(
        "envs:AntDir-v0", simulation="batch", preset="tuned", meta_batch_size=10, horizon=100
    )
    trained = Learner(config)
    *_, last = trained.learn(8)
    assert last["return/gain"] > 1
    key, tasks = RandomKey(1), {"direction": np.tile([1.0, -1.0], 32)}
    adaptive = [trained.begin(tasks)]
    adaptive.append(adaptive[0].learn(trained.sample(adaptive[0], tasks, key, 0)))
    both = [Learner(replace(config, simulation=name, episodes=1)) for name in ("warp", "batch")]
    for stage, adapted in enumerate(adaptive):
        returns = torch.cat([x.sample(adapted, tasks, key, stage + 1).returns.T for x in both])
        mean, error = returns.mean(1), returns.std(1) / 8
        print(f"stage {stage}: warp, MuJoCo {mean.tolist()} ± {error.tolist()}")
        assert abs(mean[0] - mean[1]) < 4 * error.square().sum().sqrt()


@SLOW
def test_deterministic_physics_give_the_same_bits_again():
    def states(**options):
        simulation = cheetah(64, **options)
        for action in random_actions(simulation, 20):
            step = simulation.step(action.to(simulation.device))
        return step.observations.cpu().clone()

    fixed = states(deterministic=True)
    assert torch.equal(fixed, states(deterministic=True))
    assert (fixed - states()).abs().median() < 1e-3


@SLOW
@pytest.mark.parametrize("id", CHAOTIC)
@pytest.mark.parametrize("deviation", [1.0, 3.0, 10.0])
def test_returns_of_chaotic_bodies_are_those_of_mujoco(id, deviation):
    """Of 64 worlds, within four standard errors of the difference of two independent means."""
    (ours, theirs), _ = pair(id, 64)
    returns = torch.zeros(2, 64, dtype=torch.float64)
    for action in random_actions(ours, 100, deviation):
        mine, other = ours.step(action.to(ours.device)), theirs.step(action)
        returns += torch.stack([mine.rewards.cpu(), other.rewards])
    mean, error = returns.mean(1), returns.std(1) / 8
    print(f"{id} σ {deviation}: warp, MuJoCo {mean.tolist()} ± {error.tolist()}")
    assert abs(mean[0] - mean[1]) < 4 * error.square().sum().sqrt()


@SLOW
@pytest.mark.parametrize(("id", "tolerance"), [*zip(CHAOTIC, (0.3, 1e-3), strict=True)])
def test_forces_of_contact_are_those_of_mujoco(id, tolerance):
    """cfrc_ext of the same states; ants have other frames of friction in some contacts."""
    family = make_family(id)
    tasks, streams = family.sample_tasks(32, RandomKey(0)), np.arange(32)
    ours = make_simulation(family, 32, simulation="warp")
    ours.begin(tasks, streams)
    physics, loop = ours.physics, LoopPhysics(family.declaration, 32)
    loop.begin(tasks, streams)
    generator = np.random.default_rng(0)
    for _ in range(15):
        loop.step(generator.normal(0, 5, (32, loop.model.nu)), np.ones(32, bool), np.array(0))
    for data in loop.data:
        data.ctrl[:] = 0
        for name in ("qpos", "qvel"):
            getattr(data, name)[:] = getattr(data, name).astype(np.float32)
        mujoco.mj_forward(loop.model, data)
    for name in ("qpos", "qvel"):
        values = np.stack([getattr(data, name) for data in loop.data])
        physics._integrated[name].copy_(torch.from_numpy(values))
    physics._integrated["qacc_warmstart"].zero_()
    physics._ctrl.zero_()
    with physics._eager():
        mujoco_warp.forward(physics._model, physics._data)
    forces = np.stack([data.cfrc_ext for data in loop.data])
    largest = np.abs(forces).max((1, 2))
    assert (largest > 1).sum() > 3
    apart = np.abs(physics._fields["cfrc_ext"].cpu().numpy() - forces).max((1, 2))
    assert (apart <= tolerance * np.maximum(largest, 1)).all()
