"""The shipped families against Gymnasium's own environments and the papers' formulas.

Physics and observations are compared with Gymnasium's environment step by step; rewards and ends
are computed here a second time, from the formulas, on that environment's raw MjData.
"""

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from metarl.simulation.backends import make_simulation
from metarl.tasks.family import make_family

STEPS = 40


def contacts(forces):
    return np.square(np.clip(forces, -1, 1)).sum()


def stepped(env, action):
    """Gymnasium's step on raw MjData; the forces on bodies at the begin of the last substep.

    With RK4, Gymnasium's own are those of the integrator's last stage.
    """
    model, data = env.model, env.data
    data.ctrl[:] = action
    mujoco.mj_step(model, data, nstep=env.frame_skip - 1)
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    forces = data.cfrc_ext.copy()
    mujoco.mj_step(model, data)
    data.cfrc_ext[:] = forces
    return env._get_obs(), forces


def unit(angle):
    return np.array([np.cos(angle), np.sin(angle)])


def ant_finn_costs(a, forces):
    return 0.005 * a @ a + 0.0005 * contacts(forces) - 0.05


def ant_out(data):
    return not 0.2 <= data.qpos[2] <= 1.0


def never(data):
    return False


def walker_out(data):
    return not (0.8 < data.qpos[1] < 2 and abs(data.qpos[2]) < 1)


def hopper_out(data):
    rest = np.concatenate([data.qpos[2:], data.qvel])
    return not (data.qpos[1] > 0.7 and abs(data.qpos[2]) < 0.2 and np.abs(rest).max() < 100)


def humanoid_com(model, data):
    return (model.body_mass @ data.xipos / model.body_mass.sum())[:2]


def ones(*shape):
    return np.ones(shape)


WALKER_TASK = {
    "mass_scale": ones(8), "inertia_scale": ones(8, 3),
    "damping_scale": ones(9), "friction_scale": ones(8, 3),
}  # fmt: skip
HOPPER_TASK = {
    "mass_scale": ones(5), "inertia_scale": ones(5, 3),
    "damping_scale": ones(6), "friction_scale": ones(5, 3),
}  # fmt: skip

# id -> Gymnasium's environment, a task, the control step in s, the reward as a function of v [2],
# the control a, MjData d, the forces f on bodies, the change c of the centre of mass; and the end.
CASES = {
    "AntDir-v0": (
        "Ant-v5", {"direction": -1.0}, 0.05,
        lambda v, a, d, f, c: -v[0] - ant_finn_costs(a, f), ant_out,
    ),
    "AntDir2D-v0": (
        "Ant-v5", {"angle": 2.0}, 0.05,
        lambda v, a, d, f, c: unit(2.0) @ v - 0.5 * a @ a - 0.0005 * contacts(f) + 1, ant_out,
    ),
    "AntVel-v0": (
        "Ant-v5", {"velocity": 1.5}, 0.05,
        lambda v, a, d, f, c: 1 - abs(v[0] - 1.5) - ant_finn_costs(a, f), ant_out,
    ),
    "AntGoal-v0": (
        "Ant-v5", {"goal": [1.0, -2.0]}, 0.05,
        lambda v, a, d, f, c: (
            -np.abs(d.qpos[:2] - [1, -2]).sum() - 0.1 * a @ a - 0.0005 * contacts(f)
        ), never,
    ),
    "HumanoidDir-v0": (
        "Humanoid-v5", {"angle": 1.0}, 0.015,
        lambda v, a, d, f, c: (
            0.25 * unit(1.0) @ c / 0.003 - 0.1 * a @ a
            - min(5e-7 * np.square(f).sum(), 10) + 5
        ), lambda d: not 1 <= d.qpos[2] <= 2,
    ),
    "Walker2dDir-v0": (
        "Walker2d-v5", {"direction": -1.0}, 0.008,
        lambda v, a, d, f, c: -v[0] + 1 - 0.001 * a @ a, walker_out,
    ),
    "Walker2dVel-v0": (
        "Walker2d-v5", {"velocity": 2.0}, 0.008,
        lambda v, a, d, f, c: 15 - abs(v[0] - 2) - 0.001 * a @ a, walker_out,
    ),
    "Walker2dParams-v0": (
        "Walker2d-v5", WALKER_TASK, 0.008,
        lambda v, a, d, f, c: v[0] + 1 - 0.001 * a @ a, walker_out,
    ),
    "HopperParams-v0": (
        "Hopper-v5", HOPPER_TASK, 0.008,
        lambda v, a, d, f, c: v[0] + 1 - 0.001 * a @ a, hopper_out,
    ),
    "SwimmerVel-v0": (
        "Swimmer-v5", {"velocity": 0.15}, 0.04, lambda v, a, d, f, c: -abs(v[0] - 0.15), never,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_family_has_gymnasiums_physics_and_the_papers_reward(name):
    their_id, task, dt, reward_of, end_of = CASES[name]
    options = {"observation": "contacts"} if their_id == "Ant-v5" else {}
    # A place to reach cannot be learned by an ant that does not see where it is.
    theirs_too = {"exclude_current_positions_from_observation": False} if "Goal" in name else {}
    ours = gymnasium.make(f"envs:{name}", action_scale=1.0, max_episode_steps=-1, **options)
    theirs = gymnasium.make(their_id, **theirs_too).unwrapped
    ours.unwrapped.task = task
    x, _ = ours.reset(seed=3)
    theirs.reset(seed=3)
    data, generator = theirs.data, np.random.default_rng(0)
    start = ours.unwrapped.data
    theirs.set_state(start.qpos.copy(), start.qvel.copy())
    y = theirs._get_obs()
    for t in range(STEPS):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
        position = data.qpos[:2].copy()
        centre = humanoid_com(theirs.model, data)
        low, high = theirs.model.actuator_ctrlrange.T
        action = generator.uniform(low, high)
        y, forces = stepped(theirs, action)
        # Our actions are in ±1 of the actuators' range.
        x, reward, terminated, _, _ = ours.step(action / high)
        expected = reward_of(
            (data.qpos[:2] - position) / dt,
            action,
            data,
            forces,
            humanoid_com(theirs.model, data) - centre,
        )
        assert reward == pytest.approx(expected, abs=1e-6), t
        assert terminated == end_of(data)
        if terminated:
            assert t > 5
            return


def test_the_finn_variant_of_the_goal():
    env = gymnasium.make("envs:AntGoal-v0", variant="finn", action_scale=1.0)
    env.unwrapped.task = {"goal": [3.0, -3.0]}
    env.reset(seed=0)
    action = np.linspace(-1, 1, 8, dtype=np.float32)
    _, reward, *_ = env.step(action)
    data = env.unwrapped.data
    distance = np.abs(data.qpos[:2] - [3, -3]).sum()
    costs = ant_finn_costs(action.astype(float), data.cfrc_ext)
    assert reward == pytest.approx(4 - distance - costs)
    assert env.unwrapped.family.tasks.splits == ("train", "test")


def test_the_reacher_is_gymnasiums_without_the_target():
    ours = gymnasium.make("envs:ReacherGoal-v0")
    theirs = gymnasium.make("Reacher-v5").unwrapped
    ours.reset(seed=0)
    theirs.reset(seed=0)
    goal = [0.05, -0.1]
    ours.unwrapped.task = {"goal": goal}
    x, _ = ours.reset(seed=0)
    # The same pose, the target at the goal.
    start = ours.unwrapped.data
    theirs.set_state(np.array([*start.qpos[:2], *goal]), np.array([*start.qvel[:2], 0.0, 0.0]))
    generator = np.random.default_rng(0)
    for _ in range(STEPS):
        action = generator.uniform(-1, 1, 2).astype(np.float32)
        y, _, _, _, _ = theirs.step(action)
        x, reward, *_ = ours.step(action)
        np.testing.assert_allclose(x[:6], np.concatenate([y[:4], y[6:8]]), atol=1e-12)
        mujoco.mj_kinematics(theirs.model, theirs.data)  # positions are a substep behind otherwise
        tip = theirs.data.body("fingertip").xpos[:2]
        np.testing.assert_allclose(x[6:], tip, atol=1e-12)
        expected = -np.linalg.norm(tip - goal) - np.square(action.astype(float)).sum()
        assert reward == pytest.approx(expected, abs=1e-9)


def test_the_cart_pole_is_gymnasiums():
    ours = gymnasium.make("envs:CartPoleParams-v0")
    theirs = gymnasium.make("CartPole-v1").unwrapped
    theirs.masscart, theirs.masspole = 1.7, 0.15
    theirs.total_mass, theirs.polemass_length = 1.85, 0.15 * theirs.length
    ours.unwrapped.task = {"cart_mass": 1.7, "pole_mass": 0.15}
    for seed in range(5):
        x, _ = ours.reset(seed=seed)
        theirs.reset(seed=seed)
        theirs.state = x
        generator, ended = np.random.default_rng(seed), False
        while not ended:
            action = generator.integers(2)
            x, reward, ended, _, _ = ours.step(action)
            _, expected, their_end, _, _ = theirs.step(action)
            np.testing.assert_allclose(x, theirs.state, rtol=1e-12, atol=1e-12)
            assert (reward, ended) == (expected, their_end)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_task_changes_its_own_model_alone(threads):
    """Masses are scaled, what MuJoCo derives follows, and no other environment's model changes."""
    family = make_family("envs:HopperParams-v0")
    action = torch.full((2, 3), 3.0)
    both, alone = make_simulation(family, 2, threads), make_simulation(family, 1, threads)
    of_one = {name: values[None] for name, values in HOPPER_TASK.items()}
    for scale in (2.0, 0.7):  # the models are written over again and again
        tasks = {n: np.stack([scale * values, values]) for n, values in HOPPER_TASK.items()}
        both.begin(tasks, np.array([1, 1]))
        alone.begin(of_one, np.array([1]))
        for _ in range(3):
            observations = both.step(action).observations
            assert torch.equal(observations[1], alone.step(action[1:]).observations[0])
            assert not torch.equal(observations[0], observations[1])


def test_derived_constants_follow_the_task():
    env = gymnasium.make("envs:HopperParams-v0")
    own = mujoco.MjModel.from_xml_path(f"{gymnasium.__path__[0]}/envs/mujoco/assets/hopper.xml")
    env.unwrapped.task = {**HOPPER_TASK, "mass_scale": np.full(5, 2.0)}
    env.reset(seed=0)
    model = env.unwrapped.model
    np.testing.assert_allclose(model.body_subtreemass, 2 * own.body_subtreemass)
    assert not np.allclose(model.dof_invweight0, own.dof_invweight0)


def test_bandits_pay_as_their_task_says():
    arms, streams = torch.arange(4000) % 5, np.arange(4000)
    simulation = make_simulation(make_family("envs:BernoulliBandit-v0"), 4000)
    simulation.begin({"probability": np.tile([0.1, 0.9, 0.5, 0.0, 1.0], (4000, 1))}, streams)
    step = simulation.step(arms)
    assert step.terminated.all()
    means = step.rewards.reshape(-1, 5).mean(0)
    np.testing.assert_allclose(means, [0.1, 0.9, 0.5, 0.0, 1.0], atol=0.05)
    simulation = make_simulation(make_family("envs:GaussianBandit-v0", std=2.0), 4000)
    simulation.begin({"mean": np.tile([0.0, 0.25, 0.5, 0.75, 1.0], (4000, 1))}, streams)
    rewards = simulation.step(arms).rewards.reshape(-1, 5)
    np.testing.assert_allclose(rewards.mean(0), [0.0, 0.25, 0.5, 0.75, 1.0], atol=0.2)
    np.testing.assert_allclose(rewards.std(0), 2.0, rtol=0.1)


def test_the_tabular_mdp_follows_its_tables():
    family = make_family("envs:TabularMDP-v0")
    simulation = make_simulation(family, 6000)
    task = family.distribution.sample(np.random.default_rng(0), "train")
    tasks = {name: np.tile(v, (6000, *np.ones(v.ndim, int))) for name, v in task.items()}
    assert (simulation.begin(tasks, np.arange(6000)).argmax(-1) == 0).all()
    states, rewards, *_ = simulation.step(torch.full((6000,), 3))
    np.testing.assert_allclose(states.mean(0), task["transitions"][0, 3], atol=0.02)
    assert rewards.mean() == pytest.approx(task["mean"][0, 3], abs=0.05)
    assert rewards.std() == pytest.approx(1, abs=0.05)
    before = states.argmax(-1)
    rewards = simulation.step(torch.full((6000,), 1)).rewards
    for s in range(10):
        if (before == s).sum() > 500:
            assert rewards[before == s].mean() == pytest.approx(task["mean"][s, 1], abs=0.15)


def test_the_grid_by_hand():
    env = gymnasium.make("envs:GridNavigation-v0")
    env.unwrapped.task = {"goal": [2, 0]}
    env.reset(seed=0)
    walk = [(4, 0, 0, -0.1), (2, 1, 0, -0.1), (2, 2, 0, 1.0), (0, 2, 0, 1.0), (1, 2, 1, -0.1)]
    for action, x, y, reward in walk:
        observation, got, *_ = env.step(action)
        assert observation.tolist() == [x, y]
        assert got == pytest.approx(reward)
    drawn = env.unwrapped.family.tasks
    cells = {tuple(drawn.sample(np.random.default_rng(i), "train")["goal"]) for i in range(300)}
    assert not cells & {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_points_by_hand():
    env = gymnasium.make("envs:NavigationCorners-v0")
    env.unwrapped.task = {"goal": [2.0, 2.0]}
    x, _ = env.reset(seed=0)
    assert np.abs(x).max() <= 0.2
    total, before = 0.0, x
    for _ in range(3):
        after, reward, *_ = env.step(np.array([0.2, 0.2], np.float32))
        made = np.linalg.norm(before - 2) - np.linalg.norm(after - 2)
        assert reward == pytest.approx(made if np.abs(after).sum() >= 0.5 else 0.0)
        total, before = total + reward, after
    assert total > 0
    for _ in range(8):
        after, reward, *_ = env.step(np.array([-0.2, 0.0], np.float32))
    assert after[0] < 0
    assert reward == 0, "another corner is nearer"
    robot = gymnasium.make("envs:SparsePointRobot-v0")
    robot.unwrapped.task = {"angle": np.pi / 2}
    robot.reset(seed=0)
    rewards = [robot.step(np.array([0.0, 0.1], np.float32))[1] for _ in range(10)]
    np.testing.assert_allclose(rewards, [0] * 7 + [0.8, 0.9, 1.0], atol=1e-6)
