"""Declared MuJoCo families against Gymnasium's own environment, and the batch against one."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import metarl.simulation.mujoco as backend
from envs.half_cheetah import HalfCheetahDir
from envs.humanoid import HumanoidDir
from metarl.simulation.backends import make_simulation
from metarl.simulation.declared import DeclaredSimulation
from metarl.simulation.mujoco import MujocoEnv
from metarl.support.errors import FamilyError, UsageError
from metarl.tasks.family import make_family

SEEDS = np.arange(3)


def states(data):
    return np.concatenate([data.qpos, data.qvel])


def batch_of(family, number, horizon=None, threads=0):
    physics = backend.make_physics(family, number, threads)
    return DeclaredSimulation(family, physics, number, horizon)


def directions(*values):
    return {"direction": np.array(values)}


def test_the_single_environment_is_gymnasiums_half_cheetah_bit_for_bit():
    """The same seed and actions: observations, states and the velocity's reward, 1,000 steps."""
    ours = gymnasium.make("envs:HalfCheetahDir-v0", action_scale=1.0, max_episode_steps=-1)
    theirs = gymnasium.make("HalfCheetah-v5", ctrl_cost_weight=0.05)
    ours.unwrapped.task = {"direction": 1.0}
    x, _ = ours.reset(seed=7)
    theirs.reset(seed=7)
    start = ours.unwrapped.data
    theirs.unwrapped.set_state(start.qpos.copy(), start.qvel.copy())
    np.testing.assert_array_equal(x, theirs.unwrapped._get_obs())
    generator = np.random.default_rng(0)
    for _ in range(1000):
        action = generator.uniform(-1, 1, 6).astype(np.float32)
        x, reward, terminated, _, _ = ours.step(action)
        y, expected, _, _, _ = theirs.step(action)
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(states(ours.unwrapped.data), states(theirs.unwrapped.data))
        # Gymnasium sums the squared action in float32.
        assert reward == pytest.approx(expected, abs=1e-6)
        assert not terminated


@pytest.mark.parametrize("threads", [1, 2])
def test_the_batch_is_the_single_environment_bit_for_bit(threads):
    family = make_family("envs:HalfCheetahVel-v0", horizon=60)
    seeds, velocities = [3, 4, 5], [0.5, 1.0, 1.5]
    batch = make_simulation(family, 3, threads)
    observations = batch.begin({"velocity": np.array(velocities)}, np.array(seeds)).clone()
    actions = np.random.default_rng(0).normal(0, 5, (60, 3, 6)).astype(np.float32)
    batched = [[part.clone() for part in batch.step(torch.from_numpy(a))[:4]] for a in actions]
    for i in range(3):
        single = family.make()
        single.unwrapped.task = {"velocity": velocities[i]}
        first, _ = single.reset(seed=seeds[i])
        np.testing.assert_array_equal(first, observations[i])
        for t in range(60):
            x, reward, terminated, truncated, _ = single.step(actions[t, i])
            np.testing.assert_array_equal(x, batched[t][0][i])
            assert (reward, terminated, truncated) == tuple(part[i] for part in batched[t][1:])


def test_ended_episodes_are_not_stepped():
    class Stops(HalfCheetahDir):
        def terminated(self, state, task):
            return task["direction"] > 0

    simulation = batch_of(Stops(), 3, horizon=3)
    simulation.begin(directions(-1.0, 1.0, -1.0), SEEDS)
    stepped, physics = [], simulation.physics
    step, physics.step = (
        physics.step,
        lambda actions, active, t: (stepped.append(active.tolist()), step(actions, active, t))[1],
    )
    first, second, third = (
        [part if part is None else part.clone() for part in simulation.step(torch.ones(3, 6))]
        for _ in range(3)
    )
    assert stepped == [[True] * 3, [True, False, True], [True, False, True]]
    for after in (second, third):
        assert torch.equal(after[0][1], first[0][1])  # the observation stays
        assert not torch.equal(after[0][0], first[0][0])
        assert after[1][1] == 0
        assert after[2].tolist() == [False, True, False]
    assert first[1][1] != 0
    assert third[3].tolist() == [True, False, True]


def test_episodes_begin_anew_with_other_tasks():
    simulation = batch_of(HalfCheetahDir(), 2, horizon=2)
    first = simulation.begin(directions(1.0, 1.0), SEEDS[:2]).clone()
    action = torch.ones(2, 6)
    rewards = simulation.step(action).rewards.clone()
    assert simulation.step(action).truncated.all()
    assert torch.equal(simulation.begin(directions(-1.0, 1.0), SEEDS[:2]), first)
    step = simulation.step(action)
    assert not step.truncated.any()
    assert step.rewards[1] == rewards[1]
    assert step.rewards[0] != rewards[0]


def test_a_closed_simulation_says_so():
    simulation = batch_of(HalfCheetahDir(), 2)
    simulation.begin(directions(1.0, 1.0), SEEDS[:2])
    simulation.close()
    simulation.close()
    with pytest.raises(UsageError, match="HalfCheetahDir: the simulation is closed"):
        simulation.step(torch.zeros(2, 6))
    with pytest.raises(UsageError, match="closed"):
        simulation.begin(directions(1.0, 1.0), SEEDS[:2])


WITH_BATCH = pytest.param(
    True, marks=pytest.mark.skipif(backend.Batch is None, reason="MuJoCo is older than 3.17")
)


def disturbed(simulation, batch, speed):
    """Observations of a good step, and the step after it, before which the second is too fast."""
    still = torch.zeros(2, simulation.physics.model.nu)
    good = simulation.step(still).observations.clone()
    physics = simulation.physics
    qvel = physics._qvel[1] if batch else physics.data[1].qvel
    qvel[:] = speed
    return good, simulation.step(still)


@pytest.mark.parametrize("batch", [WITH_BATCH, False])
def test_an_unstable_simulation_ends_in_its_last_good_state(batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not batch:
        monkeypatch.setattr(backend, "Batch", None)
    simulation = batch_of(HalfCheetahDir(), 2)
    simulation.begin(directions(1.0, 1.0), SEEDS[:2])
    still = torch.zeros(2, 6)
    good, step = disturbed(simulation, batch, 1e12)
    assert step.failed.tolist() == step.truncated.tolist() == [False, True]
    assert not step.terminated.any()
    assert step.rewards[1] == 0
    assert step.observations[0, 0] != good[0, 0]
    assert torch.equal(step.observations[1, :8], good[1, :8])
    assert simulation.step(still).failed.tolist() == [False, True], "it rests, and stays failed"
    simulation.begin(directions(1.0, 1.0), SEEDS[:2])
    step = simulation.step(still)
    assert not step.truncated.any()
    assert not step.failed.any()
    assert not list(tmp_path.iterdir()), "MuJoCo wrote a log"


@pytest.mark.parametrize("batch", [WITH_BATCH, False])
def test_all_that_is_observed_of_an_unstable_simulation_is_of_its_last_good_state(
    batch, monkeypatch
):
    """Inertias, velocities and forces of a humanoid's bodies too, which MuJoCo's reset changes."""
    if not batch:
        monkeypatch.setattr(backend, "Batch", None)
    simulation = batch_of(HumanoidDir(), 2)
    simulation.begin({"angle": np.zeros(2)}, SEEDS[:2])
    good, step = disturbed(simulation, batch, 1e13)
    assert step.failed.tolist() == [False, True]
    seen = torch.ones(348, dtype=torch.bool)
    seen[22:45] = False  # the velocities, which were set before the step
    assert torch.equal(step.observations[1, seen], good[1, seen])


def test_without_the_batch_engine_the_results_are_the_same(monkeypatch, caplog):
    def rollout():
        simulation = batch_of(HalfCheetahDir(), 3, horizon=5)
        simulation.begin(directions(1.0, -1.0, 1.0), SEEDS)
        actions = torch.full((3, 6), 0.5)
        return torch.stack([simulation.step(actions).observations.clone() for _ in range(5)])

    with_batch = rollout()
    backend._warn_of_missing_batch.cache_clear()
    monkeypatch.setattr(backend, "Batch", None)
    assert torch.equal(rollout(), with_batch)
    rollout()
    assert [r.message for r in caplog.records] == [
        f"MuJoCo {mujoco.__version__} has no batch engine, which 3.17 introduced: environments "
        "are stepped one by one"
    ]


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_actions_cover_the_actuators_range(scale):
    env = MujocoEnv("envs.half_cheetah:HalfCheetahDir", action_scale=scale)
    physics = env.physics
    np.testing.assert_allclose(physics.control(np.full((1, 6), scale)), 1)
    np.testing.assert_allclose(physics.control(np.full((1, 6), -3 * scale)), -1)
    np.testing.assert_allclose(physics.control(np.full((1, 6), 0.1 * scale)), 0.1)


def test_rewards_follow_the_published_formulas():
    """On raw MjData of Gymnasium's environment, from FINN 2017: g v − .05‖a‖², −|v−g| − .05‖a‖²."""
    theirs = gymnasium.make("HalfCheetah-v5").unwrapped
    theirs.reset(seed=0)
    action = np.random.default_rng(0).uniform(-1, 1, 6)
    cost = 0.05 * np.square(action).sum()
    for name, task, expected in [
        ("Dir", {"direction": -1.0}, lambda v: -v - cost),
        ("Vel", {"velocity": 1.25}, lambda v: -abs(v - 1.25) - cost),
    ]:
        env = gymnasium.make(f"envs:HalfCheetah{name}-v0")
        env.unwrapped.task = task
        env.reset(seed=0)
        start = env.unwrapped.data
        theirs.set_state(start.qpos.copy(), start.qvel.copy())
        x = theirs.data.qpos[0]
        theirs.step(action)
        _, reward, *_ = env.step(10 * action)
        assert reward == pytest.approx(expected((theirs.data.qpos[0] - x) / 0.05), abs=1e-9)


def test_the_finn_observation_has_the_torsos_position():
    env = gymnasium.make("envs:HalfCheetahDir-v0", observation="finn")
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == (20,)
    np.testing.assert_allclose(observation[17:], env.unwrapped.data.body("torso").xpos, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"Wrong: configure returns \[\], but model_fields has \['body_mass'\]"),
        ({"body_mass": np.ones(5)}, r"configure returns body_mass of shape \(5,\), not \(1, 8\)"),
    ],
)
def test_a_wrong_configuration_of_the_model_is_an_error(values, message):
    class Wrong(HalfCheetahDir):
        model_fields = ("body_mass",)

        def configure(self, model, task):
            return values

    with pytest.raises(UsageError, match=message):
        MujocoEnv(Wrong()).reset(seed=0)


def declared(**attributes):
    return type("Wrong", (HalfCheetahDir,), attributes)()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"xml": "none.xml"},
            r"there is no model .*none.xml; give the full path of your own model",
        ),
        (
            {"fields": ("qpos", "xposs")},
            r"fields has xposs, which MuJoCo does not know; did you mean xpos",
        ),
        ({"model_fields": ("bodymass",)}, r"model_fields has bodymass.*did you mean body_mass\?"),
        ({"configure": lambda self, model, task: {}}, r"has configure but no model_fields"),
    ],
)
def test_a_wrong_declaration_is_one_line(attributes, message):
    with pytest.raises(UsageError, match=message):
        MujocoEnv(declared(**attributes))


@pytest.mark.parametrize("name", ["reward", "terminated"])
def test_a_value_of_the_wrong_shape_is_named(name):
    wrong = declared(
        **{name: lambda self, *states: states[-2 if name == "reward" else 0].qpos[..., :1]}
    )
    simulation = batch_of(wrong, 3)
    simulation.begin(directions(1.0, 1.0, 1.0), SEEDS)
    message = rf"Wrong: {name} returns shape \(3, 1\) for 3 environments, not \(3,\)"
    with pytest.raises(UsageError, match=message):
        simulation.step(torch.zeros(3, 6))


def test_a_first_state_of_the_wrong_shape_is_named():
    """As of one environment, which is what `initial` gave before it took noise."""
    wrong = declared(initial=lambda self, noise, qpos, qvel: (qpos, qvel[0]))
    message = r"Wrong: initial returns shape \(9,\) for 3 environments, not \(3, 9\)"
    with pytest.raises(UsageError, match=message):
        batch_of(wrong, 3).begin(directions(1.0, 1.0, 1.0), SEEDS)


@pytest.mark.parametrize(
    ("function", "read"),
    [
        ("observe", lambda self, state: state.xpos),
        ("reward", lambda self, before, control, after, task: before.xpos[..., 0]),
        ("terminated", lambda self, state, task: state.xpos[..., 0, 0] > 1),
    ],
)
def test_a_field_that_is_read_but_not_declared_is_one_line(function, read):
    wrong = declared(**{function: read})
    message = (
        rf"^Wrong\.{function} reads state\.xpos, which is not in its fields \(qpos, qvel.*\): "
        r"add it to `fields`$"
    )

    def run():
        env = MujocoEnv(wrong)
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape))

    with pytest.raises(UsageError, match=message):
        run()


def test_a_model_field_that_is_read_but_not_declared_is_one_line():
    wrong = declared(
        model_fields=("body_mass",),
        configure=lambda self, model, task: {"body_mass": model.body_inertia[None]},
    )
    message = (
        r"^Wrong\.configure reads model\.body_inertia, which is not in its model_fields "
        r"\(body_mass\): add it to `model_fields`$"
    )
    with pytest.raises(UsageError, match=message):
        MujocoEnv(wrong).reset(seed=0)


@pytest.mark.parametrize(
    "read",
    [
        lambda self, state: state.qpos.no_such_method(),
        lambda self, state: self.no_such_option,
        lambda self, state: state.qpos @ np.ones(1000),
    ],
)
def test_other_errors_of_a_familys_own_are_told_with_their_line(read):
    with pytest.raises(FamilyError, match=r"reset failed: .*(no_such|matmul)") as raised:
        MujocoEnv(declared(observe=read)).reset(seed=0)
    assert isinstance(raised.value.__cause__, AttributeError | ValueError)
    assert f"({Path(__file__)}:" in str(raised.value)


def test_a_family_may_ask_whether_a_state_has_a_field():
    class Asks(HalfCheetahDir):
        def observe(self, state):
            assert not hasattr(state, "xpos")
            return super().observe(state)

    MujocoEnv(Asks()).reset(seed=0)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<mujoco><worldbody>", r"own\.xml: XML"),
        (
            "<mujoco><worldbody><body><joint name='j'/><geom size='1'/></body></worldbody>"
            "<actuator><motor joint='j'/></actuator></mujoco>",
            "actuator 0 of .*own.xml needs a ctrlrange",
        ),
    ],
)
def test_a_wrong_model_is_one_line(xml, message, tmp_path):
    (tmp_path / "own.xml").write_text(xml)
    with pytest.raises(UsageError, match=message):
        MujocoEnv(declared(xml=str(tmp_path / "own.xml")))


@pytest.mark.parametrize("reference", ["HalfCheetahDir", "envs.half_cheetah:HalfCheeta"])
def test_a_wrong_reference_is_one_line(reference):
    with pytest.raises(UsageError, match=f"family {reference} must be MODULE:CLASS"):
        MujocoEnv(reference)


def test_a_wrong_control_timestep_is_an_error():
    class Wrong(HalfCheetahDir):
        control_timestep = 0.033

    with pytest.raises(UsageError, match=r"control_timestep 0\.033 is not a multiple"):
        MujocoEnv(Wrong())


def test_steps_are_not_timed_unless_somebody_asks():
    """`set_mjcb_time(None)` gives MuJoCo's package its own clock back."""
    env = gymnasium.make("envs:HalfCheetahDir-v0").unwrapped
    env.reset(seed=0)
    step = int(mujoco.mjtTimer.mjTIMER_STEP)

    def timed():
        env.step(np.zeros(6))
        return env.data.timer[step].duration > 0

    assert not timed()
    mujoco.set_mjcb_time(None)
    assert timed()
    backend.stop_clock()
    env.reset(seed=0)
    assert not timed()
