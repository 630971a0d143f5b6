"""Environments of users: what they call their attributes, where their task and errors are."""

import subprocess
import sys
import textwrap

import gymnasium
import numpy as np
import pytest
import torch
from forked import metarl
from gymnasium import spaces

from metarl import Config, Learner
from metarl.simulation.backends import Processes, make_simulation
from metarl.simulation.results import success_of
from metarl.support.errors import FamilyError, UsageError
from metarl.support.randomness import RandomKey
from metarl.tasks.declaration import load_declaration
from metarl.tasks.distributions import TaskDistribution, Uniform
from metarl.tasks.family import make_family, task_environment
from metarl.tasks.parameterised import ParameterisedEnv
from metarl.tasks.task import uniform_task

SMALL = {"meta_batch_size": 2, "episodes": 2, "horizon": 5, "eval_tasks": 2, "device": "cpu"}


@pytest.mark.parametrize("name", ["OwnNames", "WrappedLine"])
@pytest.mark.parametrize("workers", [0, 1])
def test_it_trains_and_is_evaluated(name, workers):
    learner = Learner(Config(f"faulty_families:{name}-v0", workers=workers, **SMALL))
    assert learner.iterate()["env_steps"] == 2 * 2 * 2 * 5
    evaluation = learner.evaluate(2)
    assert evaluation.paths is None
    assert learner.describe()["family"]["splits"] == ("train", "test")


def test_names_of_an_environments_own_mean_nothing():
    family = make_family("faulty_families:OwnNames-v0")
    assert family.declaration is None
    assert family.distribution == TaskDistribution()
    assert family.splits == ("train", "test")
    assert family.visible == ()
    assert not family.planar
    assert family.describe()["options"] == {}


@pytest.mark.parametrize(
    ("splits", "understood"),
    [
        (["train", "test", "far"], ("train", "test", "far")),
        (("easy", "hard"), ("train", "test")),
        ("easy hard", ("train", "test")),
        ((1, 2), ("train", "test")),
        ({"train": 1, "test": 2}, ("train", "test")),
    ],
)
def test_splits_are_a_list_of_names_with_train_and_test(splits, understood):
    family = make_family("faulty_families:Line-v0")
    family.task_env.splits = splits
    assert family.splits == understood


@pytest.mark.parametrize("splits", [("train", "valid"), ["test"], ("train", "test", "test")])
def test_splits_without_train_or_test_are_an_error(splits):
    family = make_family("faulty_families:Line-v0")
    family.task_env.splits = splits
    with pytest.raises(UsageError, match=r"splits .* must contain train and test"):
        family.sample_tasks(1, RandomKey(0))


@pytest.mark.parametrize(
    ("visible", "understood"),
    [(("goal",), ("goal",)), ({"goal"}, ("goal",)), ("all", ()), (["seen"], ()), (True, ())],
)
def test_visible_are_names_of_parameters(visible, understood):
    family = make_family("faulty_families:Line-v0")
    family.task_env.visible = visible
    assert family.visible == understood


def test_tasks_are_drawn_from_a_distribution_without_sample_task():
    family = make_family("faulty_families:Line-v0")
    family.task_env.tasks = TaskDistribution(goal=Uniform(0.1, 0.2, beyond=(-1.0, 1.0)))
    assert family.splits == ("train", "test", "beyond")
    goals = family.sample_tasks(50, RandomKey(0))["goal"]
    assert (goals >= 0.1).all()
    assert (goals <= 0.2).all()


def test_tasks_that_an_environment_draws_together():
    family = make_family("faulty_families:Line-v0")
    asked = []

    def sample_task_set(generator, split, number):
        asked.append((split, number))
        return [{"goal": x} for x in generator.permutation(np.linspace(-0.5, 0.5, 7))[:number]]

    family.task_env.sample_task_set = sample_task_set
    goals = family.sample_tasks(7, RandomKey(0), "test")["goal"]
    assert asked == [("test", 7)]
    np.testing.assert_allclose(np.sort(goals), np.linspace(-0.5, 0.5, 7))
    again, other, training = (
        family.sample_tasks(7, RandomKey(seed), split)["goal"]
        for seed, split in ((0, "test"), (1, "test"), (0, "train"))
    )
    np.testing.assert_array_equal(again, goals)
    assert (other != goals).any()
    assert (training != goals).any()


def test_a_draw_that_ends_a_loop_is_named_with_its_place():
    family = make_family("faulty_families:Line-v0")
    family.task_env.sample_task = lambda generator, split: next(iter(()))
    with pytest.raises(FamilyError, match=r"task 0 of split train failed: StopIteration.*\.py:"):
        family.sample_tasks(2, RandomKey(0))


@pytest.mark.parametrize("drawn", [[], [{"goal": 0.1}] * 3, {"goal": 0.1}, None])
def test_a_set_of_another_number_of_tasks_is_an_error(drawn):
    family = make_family("faulty_families:Line-v0")
    family.task_env.sample_task_set = lambda generator, split, number: drawn
    with pytest.raises(FamilyError, match="a sample_task_set that returns no list of 2 tasks"):
        family.sample_tasks(2, RandomKey(0))


def test_a_task_is_found_in_the_outermost_wrapper_that_has_one():
    env = gymnasium.make("faulty_families:WrappedLine-v0")
    holder = task_environment(env)
    assert type(holder).__name__ == "Goals"
    outer = type(holder)(env)
    assert task_environment(outer) is outer


def test_a_wrapper_that_forwards_reading_is_not_the_holder():
    class Forwards(gymnasium.Wrapper):
        def __getattr__(self, name):
            return getattr(self.env, name)

    env = gymnasium.make("faulty_families:Line-v0")
    assert task_environment(Forwards(env)) is env.unwrapped


@pytest.mark.parametrize("processes", [0, 2])
def test_the_task_of_a_wrapper_takes_effect(processes):
    family = make_family("faulty_families:WrappedLine-v0")
    simulation = make_simulation(family, 2, processes=Processes(processes))
    streams, still = np.zeros(2, np.int64), torch.zeros(2, 1)
    x = simulation.begin({"goal": np.array([-1.0, 1.0])}, streams).clone()
    assert torch.equal(x[0], x[1])
    step = simulation.step(still)
    torch.testing.assert_close(step.rewards, -abs(x[:, 0] - torch.tensor([-1.0, 1.0])).double())
    assert step.success.tolist() == [0, 0]  # from is_success
    simulation.begin({"goal": x[:, 0].numpy()}, streams)
    assert simulation.step(still).success.tolist() == [1, 1]
    simulation.close()


@pytest.mark.parametrize(
    ("info", "success"),
    [
        ({"success": True}, 1), ({"is_success": np.bool_(True)}, 1), ({"is_success": 0.0}, 0),
        ({"success": np.array([1])}, 1), ({"success": "soon", "is_success": False}, 0),
        ({}, np.nan), ({"success": None}, np.nan), ({"success": [1, 0]}, np.nan),
    ],
)  # fmt: skip
def test_success_under_either_name(info, success):
    np.testing.assert_equal(success_of(info), success)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "KeyError",
            r"cannot be made: KeyError: 'missing' \(.*faulty_families.py:\d+, in __init__\)",
        ),
        ("TypeError", r"cannot be made: TypeError: object of type 'int' has no len\(\) \(/"),
        ("numpy", r"cannot be made: TypeError: data type .* \(.*faulty_families.py:\d+"),
    ],
)
def test_an_error_in_an_environments_own_code_is_told_with_its_place(error, message):
    with pytest.raises(UsageError, match=message) as raised:
        make_family("faulty_families:BrokenInit-v0", error=error)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, (KeyError, TypeError))


def test_an_option_that_is_not_taken_is_told_as_such():
    with pytest.raises(
        UsageError, match=r"cannot be made with {'speed': 2}: .*'speed'; it takes flag"
    ):
        make_family("faulty_families:Switched-v0", speed=2)


@pytest.mark.parametrize(
    ("given", "parsed"),
    [("false", False), ("true", True), ("True", True), (1, 1), (0.5, 0.5), ("finn", "finn")],
)
def test_options_of_a_command_line_have_their_types(given, parsed):
    family = make_family("faulty_families:Switched-v0", flag=given)
    flag, *_ = family.prototype.unwrapped.given
    assert (type(flag), flag) == (type(parsed), parsed)


DECLARED = """
from dataclasses import dataclass
from envs.navigation import Navigation2D

@dataclass(frozen=True)
class Typed(Navigation2D):
    flag: bool = True
    size: int = 1
    scale: float | None = None
    name: str = ""
    sides: tuple[int, ...] = ()
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flag": 1}, "Typed: flag 1 must be true or false"),
        ({"flag": "no"}, "Typed: flag no must be true or false"),
        ({"size": True}, "Typed: size True must be an int"),
        ({"size": 0.5}, "Typed: size 0.5 must be an int"),
        ({"scale": "big"}, "Typed: scale big must be a float or None"),
        ({"sides": 3}, "Typed: sides 3 must be a tuple"),
        ({"flag": False, "size": 2, "scale": 1, "name": "x", "sides": (1,)}, ""),
        ({"scale": None}, ""),
    ],
)
def test_options_of_a_declaration_are_of_its_fields_types(options, message, tmp_path, monkeypatch):
    (tmp_path / "typed_family.py").write_text(DECLARED)
    monkeypatch.syspath_prepend(tmp_path)
    if not message:
        declaration = load_declaration("typed_family:Typed", options)
        assert {name: getattr(declaration, name) for name in options} == options
        return
    with pytest.raises(UsageError, match=message):
        load_declaration("typed_family:Typed", options)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8])
def test_whole_number_tasks_are_as_likely_over_both_ends(dtype):
    low = 0 if dtype is np.uint8 else -2
    space = spaces.Dict(gear=spaces.Box(low, low + 4, (3,), dtype))
    generator = np.random.default_rng(0)
    drawn = np.stack([uniform_task(space, generator, "train")["gear"] for _ in range(5000)])
    assert drawn.dtype == dtype
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == list(range(low, low + 5))
    np.testing.assert_allclose(counts / drawn.size, 0.2, atol=0.02)


def test_an_attribute_keeps_its_type():
    choice = {"kind": "Choice", "values": [3.0]}
    env = ParameterisedEnv("faulty_families:Sled-v0", {"gears": ["gears", choice]})
    env.reset(seed=0)
    gears = env._env.unwrapped.gears
    assert (type(gears), gears) == (int, 3)
    env = ParameterisedEnv(
        "faulty_families:Sled-v0", {"lit": ["lit", {"kind": "Choice", "values": [0.0]}]}
    )
    env.reset(seed=0)
    assert env._env.unwrapped.lit is False
    env = ParameterisedEnv("faulty_families:Sled-v0", {"gears": ["gears", 2.5, 2.5]})
    env.reset(seed=0)
    assert env._env.unwrapped.gears == 2.5


def test_an_element_of_an_array_of_whole_numbers_is_never_rounded():
    env = ParameterisedEnv("HalfCheetah-v5", {"joint": ["model.jnt_type[1]", 2.5, 2.5]})
    with pytest.raises(UsageError, match=r"model.jnt_type\[1\] holds whole numbers, not 2.5"):
        env.reset(seed=0)


def test_cart_poles_derived_attributes_follow():
    ours = ParameterisedEnv(
        "CartPole-v1", {"mass": ["masspole", 0.3, 0.3], "length": ["length", 0.8, 0.8]}
    )
    ours.reset(seed=0)
    base = ours._env.unwrapped
    assert base.total_mass == pytest.approx(1.0 + 0.3)
    assert base.polemass_length == pytest.approx(0.3 * 0.8)


def test_a_function_of_the_familys_derives_what_follows():
    family = make_family("faulty_families:SledDerived-v0")
    env = family.make()
    task_environment(env).task = {"mass": 2.0}
    env.reset(seed=0)
    assert env.unwrapped._env.unwrapped.total == 2.5
    with pytest.raises(UsageError, match="module faulty_families has no nothing"):
        ParameterisedEnv("faulty_families:Sled-v0", {}, derive="faulty_families:nothing")


def test_every_mujoco_model_has_its_derived_constants():
    ours = ParameterisedEnv("HalfCheetah-v5", {"torso": ("unwrapped.model.body_mass[1]", 15, 15)})
    model = ours._env.unwrapped.model
    before = model.body_subtreemass[0] - model.body_mass[1]
    ours.reset(seed=0)
    assert model.body_subtreemass[0] == pytest.approx(before + 15)


@pytest.mark.parametrize(
    ("env_id", "parameters"),
    [
        ("CartPole-v1", {"a": ("masspole", 0.05, 0.5), "b": ("length", 0.3, 1.0)}),
        (
            "Pendulum-v1",
            {"a": ("m", 0.5, 2.0), "b": ("l", 0.5, 2.0), "c": ("max_torque", 1.0, 3.0)},
        ),
        ("Acrobot-v1", {"a": ("LINK_MASS_1", 0.5, 2.0), "b": ("LINK_LENGTH_1", 0.5, 2.0)}),
        ("MountainCar-v0", {"a": ("min_position", -1.5, -1.0), "b": ("gravity", 0.001, 0.003)}),
        ("MountainCarContinuous-v0", {"a": ("power", 0.001, 0.003), "b": ("max_action", 0.5, 2.0)}),
        ("HalfCheetah-v5", {"a": ("model.body_mass[1]", 5, 9), "b": ("_ctrl_cost_weight", 0, 1)}),
    ],
)
def test_nothing_stays_behind_in_gymnasiums_environments(env_id, parameters):
    env = ParameterisedEnv(env_id, parameters)
    for seed in range(3):
        env.task = env.sample_task(np.random.default_rng(seed), "train")
        assert env.stale_attributes() == []


def test_cart_pole_without_its_derivation_would_be_found(monkeypatch):
    monkeypatch.setattr("metarl.tasks.parameterised.KNOWN_DERIVATIONS", {})
    env = ParameterisedEnv("CartPole-v1", {"mass": ("masspole", 0.3, 0.5)})
    assert env.stale_attributes() == ["polemass_length", "total_mass"]


OWN_ENVS = '''
import gymnasium
import numpy as np


class Reach(gymnasium.Env):
    """A point on a line goes to a place that it does not see."""

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.task_space = gymnasium.spaces.Dict(place=gymnasium.spaces.Box(-1.0, 1.0, ()))
        self.task = {"place": 0.0}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.zeros(1, np.float32)
        return self.x, {}

    def step(self, action):
        self.x = self.x + 0.1 * action
        return self.x, -abs(float(self.x[0] - self.task["place"])), False, False, {}


for name in ("Reach-v0", "HopperParams-v0"):
    gymnasium.register(name, entry_point="envs:Reach", max_episode_steps=10)
'''

SPAWNED = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from metarl.tasks.family import make_family

def observation_size(declaration):
    return declaration.observation_space.shape

if __name__ == "__main__":
    family = make_family("envs:AntDir-v0")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(observation_size, family.declaration).result())
    import envs
    print(envs.__file__)
    print(type(make_family("envs:HopperParams-v0").prototype.unwrapped).__module__)
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a package `envs` of its own, one of whose ids metarl has too."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text(textwrap.dedent(OWN_ENVS))
    (tmp_path / "spawned.py").write_text(SPAWNED)
    return tmp_path


@pytest.mark.parametrize(
    "family",
    [
        "envs:Reach-v0",
        "envs:HopperParams-v0",
        "envs:HalfCheetahDir-v0",
        "HalfCheetahDir-v0",
        "metarl_envs:PendulumParams-v0",
        "envs:PendulumParams-v0",
    ],
)
def test_families_of_both_packages_called_envs_train(project, family):
    small = "--iterations 1 --meta-batch-size 2 --episodes 2 --horizon 5 --eval-every 0 --workers 1"
    options = ["--family", family, "--run-dir", "run", *small.split()]
    result = metarl("train", *options, cwd=project)
    assert result.returncode == 0, result.stderr
    assert "iteration 1/1" in result.stdout


def test_a_step_of_four_results_is_told_what_is_right():
    """Also where a wrapper of Gymnasium unpacks them before metarl sees them."""
    learner = Learner(Config("faulty_families:FourResults-v0", **SMALL))
    wanted = "step 0, .*faulty_families.py:.*returns no tuple of observation, reward, terminated, "
    with pytest.raises(FamilyError, match=wanted):
        learner.iterate()


def test_a_shipped_declaration_unpickles_beside_a_package_called_envs(project):
    command = [sys.executable, "spawned.py"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shape, own, module = result.stdout.splitlines()
    assert shape == "(27,)"
    assert own == str(project / "envs" / "__init__.py")
    assert module == "envs", "the project's own HopperParams"


def test_a_family_that_neither_package_has_is_one_line(project):
    result = metarl("check", "envs:HalfCheetaDir-v0", cwd=project)
    assert result.returncode == 2
    assert f"module envs ({project}" in result.stderr
    assert "did you mean envs:HalfCheetahDir-v0?" in result.stderr
    result = metarl("check", "envs.nothing:HalfCheetahDir-v0", cwd=project)
    assert result.stderr == (
        "error: there is no module envs.nothing here or among the installed packages\n"
    )
