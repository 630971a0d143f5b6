import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.support.errors import UsageError
from metarl.support.randomness import RandomKey
from metarl.tasks.family import make_family
from metarl.tasks.parameterised import ParameterisedEnv
from metarl.tasks.registry import find_spec, registered_families
from metarl.tasks.task import (
    first_of_each,
    has_exact_name,
    parse_task,
    stack_tasks,
    task_hashes,
    task_name,
    uniform_task,
    validate_tasks,
)

SPACE = spaces.Dict(goal=spaces.Box(-1.0, 1.0, (2,), np.float64), arm=spaces.Discrete(3, start=1))
GOOD = {"goal": [0.5, -0.5], "arm": 2}


@pytest.mark.parametrize(
    ("task", "name", "exact"),
    [
        ({"velocity": np.float32(0.3)}, "velocity=0.3", True),
        ({"goal": np.array([0.25, -1.0]), "arm": 2}, "goal=0.25,-1 arm=2", True),
        ({"probability": np.linspace(0, 1, 5)}, "probability=0,0.25,0.5,0.75,1", True),
        ({"velocity": 1.23456}, "velocity=1.235", False),
    ],
)
def test_the_name_of_a_task_is_what_task_reads(task, name, exact):
    assert (task_name(task), has_exact_name(task)) == (name, exact)
    bounds = {n: spaces.Box(-3, 3, np.shape(x), np.asarray(x).dtype) for n, x in task.items()}
    read = parse_task(spaces.Dict(bounds), name.split(), {})
    assert all(np.array_equal(read[n], task[n]) for n in task) is exact


def test_tasks_of_many_numbers_have_names_of_their_own():
    tasks = [{"mean": np.full((3, 3), value)} for value in (1.0, 2.0, 1.0, -0.0, 0.0)]
    one, two, again, *_ = map(task_name, tasks)
    assert one == again != two
    assert re.fullmatch("mean=#[0-9a-f]{6}", one)
    hashes = task_hashes(stack_tasks(tasks))
    assert hashes[0] == hashes[2]
    assert hashes[3] == hashes[4]  # −0 and 0
    assert len(set(hashes)) == 3
    assert first_of_each(stack_tasks(tasks), [2, 4, 3, 0, 1]) == [2, 4, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": [0.5, 1.5]}, r"task parameter goal = 1.5 is outside \[-1, 1\]"),
        ({"goal": [0.5, np.nan]}, r"task parameter goal = nan is outside \[-1, 1\]"),
        ({"arm": 0}, "task parameter arm = 0 is outside 1 to 3"),
        ({"goal": 0.5}, r"task parameter goal has shape \(\), not \(2,\)"),
        ({"mass": 1.0}, r"task has parameters \['arm', 'goal', 'mass'\], but its space"),
    ],
)
def test_a_task_outside_its_space_is_an_error(change, message):
    with pytest.raises(UsageError, match=message):
        validate_tasks(SPACE, GOOD | change, None)


def test_one_bad_task_of_many_is_an_error():
    with pytest.raises(UsageError, match=r"goal = 1.5 is outside \[-1, 1\]"):
        validate_tasks(SPACE, stack_tasks([GOOD, GOOD | {"goal": [0.0, 1.5]}]), 2)


def test_a_checked_task_does_not_change_with_the_callers_array():
    goal = np.array([0.5, -0.5])
    checked = validate_tasks(SPACE, {"goal": goal, "arm": 2}, None)
    goal[:] = 0
    np.testing.assert_array_equal(checked["goal"], [0.5, -0.5])


@given(st.integers(3, 12), st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_splits_of_a_finite_space_are_disjoint_and_cover_it(n, m):
    space = spaces.Dict(first=spaces.Discrete(n, start=2), second=spaces.Discrete(m))
    generator = np.random.default_rng(0)

    def drawn(split):
        tasks = [uniform_task(space, generator, split) for _ in range(30 * n * m)]
        return {(int(task["first"]), int(task["second"])) for task in tasks}

    train, test = drawn("train"), drawn("test")
    assert not train & test
    assert test
    if n * m <= 20:  # enough draws to have seen all
        assert len(train | test) == n * m


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(0, 100))
def test_uniform_tasks_lie_in_the_space_in_single_precision_too(low, width, seed):
    space = spaces.Dict(x=spaces.Box(np.float32(low), np.float32(low + width), (), np.float32))
    task = uniform_task(space, np.random.default_rng(seed), "train")
    assert task["x"] in space["x"]


def test_uniform_tasks_fill_the_box():
    space = spaces.Dict(x=spaces.Box(2.0, 4.0, (), np.float64))
    draws = [uniform_task(space, np.random.default_rng(i), "train")["x"] for i in range(2000)]
    assert np.mean(draws) == pytest.approx(3, abs=0.05)
    assert np.std(draws) == pytest.approx(2 / np.sqrt(12), rel=0.05)


def test_a_space_without_bounds_needs_a_distribution_of_its_own():
    space = spaces.Dict(x=spaces.Box(0, np.inf, ()))
    with pytest.raises(UsageError, match="x has no bounds to draw uniformly from"):
        uniform_task(space, np.random.default_rng(0), "train")


def test_more_tasks_begin_with_the_same_ones():
    family = make_family("envs:Navigation2D-v0")
    few, many = (family.sample_tasks(n, RandomKey(3)) for n in (4, 9))
    np.testing.assert_array_equal(few["goal"], many["goal"][:4])


def test_registered_families_are_listed_without_naming_their_module():
    assert {
        "HalfCheetahDir-v0",
        "HalfCheetahVel-v0",
        "Navigation2D-v0",
        "PendulumParams-v0",
    } <= set(registered_families())
    assert "Pendulum-v1" not in registered_families()
    assert make_family("Navigation2D-v0").horizon == 100


def test_plain_families_of_a_named_module_are_listed_and_suggested(tmp_path, monkeypatch):
    (tmp_path / "integrator.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Integrator-v0', entry_point='integrator:Any', max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="did you mean integrator:Integrator-v0"):
        find_spec("integrator:Integrater-v0")
    assert "Integrator-v0" in registered_families(["integrator"])
    assert "Integrator-v0" not in registered_families()
    with pytest.raises(UsageError, match=r"there is no task family Integratr-v0$"):
        find_spec("Integratr-v0")
    del gymnasium.registry["Integrator-v0"]


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("envs:HalfCheetahDri-v0", "did you mean envs:HalfCheetahDir-v0?"),
        ("Navigation2-v0", "there is no task family Navigation2-v0; did you mean Navigation2D-v0?"),
        ("no_such_module:Family-v0", "there is no module no_such_module"),
        ("no_such_package.module:Family-v0", "there is no module no_such_package.module"),
    ],
)
def test_an_unknown_family_is_an_error_with_the_closest_one(id, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        find_spec(id)


@pytest.mark.parametrize("id", ["envs.HalfCheetahDir-v0", "envs:", ":Line-v0", ".envs:Line-v0", ""])
def test_an_id_that_is_none_is_one_line(id):
    message = f"task families are named MODULE:ID, as in envs:HalfCheetahDir-v0, not '{id}'"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make_family(id)


def test_a_registered_id_may_have_a_dot():
    gymnasium.register("Line.Short-v0", "faulty_families:Line", max_episode_steps=3)
    try:
        assert make_family("Line.Short-v0").horizon == 3
    finally:
        del gymnasium.registry["Line.Short-v0"]


def test_an_environment_without_a_task_is_an_error():
    with pytest.raises(UsageError, match="CartPole-v1 is an environment without a task: CartPole"):
        make_family("CartPole-v1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 3}, "HalfCheetahDir has no option speed; it has action_scale, observation"),
        ({"observation": "all"}, "observation all must be promp or finn"),
        ({"action_scale": "big"}, "action_scale big must be a float"),
    ],
)
def test_a_wrong_option_is_an_error(options, message):
    with pytest.raises(UsageError, match=message):
        make_family("envs:HalfCheetahDir-v0", **options)


def test_a_family_without_a_horizon_needs_one():
    gymnasium.register(
        "Endless-v0",
        entry_point="metarl.tasks.parameterised:ParameterisedEnv",
        kwargs={"env_id": "Pendulum-v1", "parameters": {"mass": ("m", 0.5, 2.0)}},
    )
    try:
        with pytest.raises(UsageError, match="Endless-v0 is registered without max_episode_steps"):
            make_family("Endless-v0")
        assert make_family("Endless-v0", horizon=7).horizon == 7
    finally:
        del gymnasium.registry["Endless-v0"]


def test_a_wrapped_environment_is_the_original_with_other_attributes():
    ours = ParameterisedEnv("Pendulum-v1", {"mass": ("m", 0.5, 2.0), "gravity": ("g", 5.0, 15.0)})
    ours.task = {"mass": 1.7, "gravity": 8.0}
    theirs = gymnasium.make("Pendulum-v1")
    theirs.unwrapped.m, theirs.unwrapped.g = 1.7, 8.0
    np.testing.assert_array_equal(ours.reset(seed=4)[0], theirs.reset(seed=4)[0])
    for _ in range(50):
        np.testing.assert_array_equal(ours.step([1.0])[0], theirs.step([1.0])[0])


def test_a_wrapped_mujoco_model_has_its_derived_constants():
    ours = ParameterisedEnv("HalfCheetah-v5", {"torso": ("model.body_mass[1]", 1.0, 20.0)})
    original = ours._env.unwrapped.model.body_subtreemass[0]
    old_mass = ours._env.unwrapped.model.body_mass[1]
    ours.task = {"torso": 15.0}
    ours.reset(seed=0)
    model = ours._env.unwrapped.model
    assert model.body_mass[1] == 15
    assert model.body_subtreemass[0] == pytest.approx(original + 15 - old_mass)


def test_an_attribute_that_is_not_there_is_an_error():
    with pytest.raises(UsageError, match="PendulumEnv has no attribute mass"):
        ParameterisedEnv("Pendulum-v1", {"mass": ("mass", 0.5, 2.0)})


def test_a_wrapped_environment_takes_distributions():
    parameters = {
        "mass": ("m", {"kind": "LogUniform", "low": 0.5, "high": 2.0, "beyond": [0.25, 4.0]}),
        "gravity": ("g", 5.0, 15.0),
    }
    env = ParameterisedEnv("Pendulum-v1", parameters)
    assert env.splits == ("train", "test", "beyond")
    for i in range(50):
        beyond = env.sample_task(np.random.default_rng(i), "beyond")
        assert not 0.5 <= beyond["mass"] <= 2.0
        assert beyond in env.task_space


@pytest.mark.parametrize(
    "given", [(1.0,), (1.0, 2.0, 3.0), ({"kind": "Normal", "mean": 0, "std": 1, "shape": [2]},)]
)
def test_a_wrapped_environment_names_the_parameter_that_is_wrong(given):
    with pytest.raises(UsageError, match="task parameter mass: "):
        ParameterisedEnv("Pendulum-v1", {"mass": ("m", *given)})
