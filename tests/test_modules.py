"""Policies that are torch modules, from another file, in every part that a policy has."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from documentation import ROOT
from forked import python
from gymnasium import spaces
from torch import nn

from metarl import Config, Learner, UsageError, load
from metarl.learners.rl2 import RL2Config, RL2Learner
from metarl.maml.estimators import lvc
from metarl.maml.inner_loop import InnerLoop
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.policies.actions import ContinuousActions
from metarl.policies.parameters import expand
from metarl.policies.policy import Policy, PolicyOptions, make_policy, module_network
from metarl.support.parallel import Workers

HERE = __name__
OBSERVATION, ACTION = 3, 2  # numbers, in the batches of conftest.py
VECTOR, IMAGE = spaces.Box(-1.0, 1.0, (2,)), spaces.Box(0, 255, (9, 9, 3), np.uint8)
SMALL = {
    "family": "envs:Navigation2D-v0",
    "meta_batch_size": 4,
    "episodes": 3,
    "horizon": 5,
    "device": "cpu",
    "eval_every": 0,
}


class Layers(nn.Module):
    """The multilayer perceptron of metarl, as torch writes it."""

    head = ("layers.2.weight", "layers.2.bias")
    context = ("task",)

    def __init__(self, space, outputs, context_size=0):
        super().__init__()
        inputs = math.prod(space.shape) + context_size
        self.layers = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))
        self.task = nn.Parameter(torch.zeros(context_size))

    def forward(self, observations):
        task = self.task.expand(len(observations), -1)
        return self.layers(torch.cat([observations, task], -1))


def of_layers(parameters):
    """Parameters of the MLP with one hidden layer of 8, under the names of `Layers`."""
    names = {"layer_0": "layers.0", "layer_1": "layers.2"}
    renamed = {"context": "task", "log_std": "log_std"}
    for ours, theirs in names.items():
        renamed |= {f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}
    return {renamed[n]: p.T.contiguous() if "weight" in n else p for n, p in parameters.items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"algorithm": "anil", "adapts": "head"},
        {"algorithm": "cavia", "adapts": "context"},
        {"algorithm": "promp", "outer": "ppo", "estimator": "lvc"},
        {"estimator": "dice", "inner_steps": 2},
        {"observe_task": False, "normalise_observations": True},
    ],
    ids=lambda options: options.get("algorithm") or next(iter(options), "maml"),
)
def test_a_module_learns_what_the_same_network_of_metarl_learns(options):
    ours = Learner(Config(**SMALL, hidden_sizes=(8,), **options))
    theirs = Learner(Config(**SMALL, policy=f"{HERE}:Layers", **options))
    if options.get("adapts") != "context":
        assert "task" in theirs.parameters  # of size 0
    rest = {n: p for n, p in theirs.parameters.items() if n == "task"}
    theirs.parameters = {**of_layers(ours.parameters), **rest}
    mine, other = ours.iterate(), theirs.iterate()
    assert other["return/after"] == pytest.approx(mine["return/after"], rel=1e-5)
    assert other["outer/gradient_norm"] == pytest.approx(mine["outer/gradient_norm"], rel=1e-3)


def test_the_meta_gradient_through_an_encoder_agrees_with_finite_differences(make_random_batch):
    one = spaces.Box(-1.0, 1.0, (1,))
    space = spaces.Dict(first=one, rest=spaces.Box(-1.0, 1.0, (OBSERVATION - 1,)))
    network = module_network("encoder", space, ACTION, PolicyOptions(hidden_sizes=(4,)))
    policy = Policy(network, ContinuousActions(ACTION))
    theta = {
        name: p.double() for name, p in policy.initial_parameters(np.random.default_rng(1)).items()
    }
    batches = [make_random_batch(i) for i in range(2)]
    inner = InnerLoop(policy_objective(policy, lvc), 0.3)
    workers = Workers(1)

    adapted = inner.path(inner.begin(theta, batches[0].tasks), batches[:-1])[-1]
    objective = MetaObjective(policy, inner, batches, theta, adapted, workers)
    _, gradient = objective.gradient(theta)
    generator = torch.Generator().manual_seed(0)
    direction = {n: torch.randn(p.shape, generator=generator).double() for n, p in theta.items()}
    along = sum((gradient[n] * direction[n]).sum() for n in theta)
    h = 1e-5
    ends = [
        objective.value({n: theta[n] + s * h * direction[n] for n in theta})[0] for s in (1, -1)
    ]
    assert float(along) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4)


@pytest.mark.parametrize("threads", [2, 3])
def test_convolutions_do_not_depend_on_the_number_of_threads(threads):
    policy = make_policy(IMAGE, spaces.Discrete(3))
    parameters = policy.initial_parameters(np.random.default_rng(0))
    each = {n: p + 0.01 * torch.randn(6, *p.shape) for n, p in parameters.items()}
    images = torch.randint(0, 256, (6, 8, 243), dtype=torch.uint8)
    with torch.no_grad():  # as while acting
        whole = policy.distribution(each, images).log_probs
        for part in torch.arange(6).tensor_split(threads):
            own = {n: p[part] for n, p in each.items()}
            assert torch.equal(policy.distribution(own, images[part]).log_probs, whole[part])


def test_an_untrained_convolution_sees_where_a_pixel_is():
    policy = make_policy(IMAGE, spaces.Discrete(3))
    parameters = expand(policy.initial_parameters(np.random.default_rng(0)), 1)
    images = torch.zeros(1, 81, 9, 9, 3, dtype=torch.uint8)
    for i in range(81):
        images[0, i, i // 9, i % 9] = 255
    log_probs = policy.distribution(parameters, images.flatten(2)).log_probs[0]
    assert len(log_probs.unique(dim=0)) == 81


class Normalised(nn.Sequential):
    def __init__(self, space, outputs):
        super().__init__(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, outputs))


class Dropped(nn.Sequential):
    def __init__(self, space, outputs):
        super().__init__(nn.Linear(2, 4), nn.Dropout(0.1), nn.Linear(4, outputs))


class Recurrent(nn.Module):
    def __init__(self, space, outputs):
        super().__init__()
        self.core = nn.GRU(2, outputs)


class TooFew(nn.Sequential):
    def __init__(self, space, outputs):
        super().__init__(nn.Linear(2, outputs - 1))


class Fails(nn.Linear):
    def __init__(self, space, outputs):
        super().__init__(3, outputs)


class NotMade(nn.Module):
    def __init__(self, space, outputs, width):
        super().__init__()


class Misnamed(nn.Linear):
    head = ("top.weight",)

    def __init__(self, space, outputs):
        super().__init__(2, outputs)


class Plain(nn.Linear):
    def __init__(self, space, outputs):
        super().__init__(2, outputs)


class Biased(nn.Linear):
    def __init__(self, space, outputs, bias=True):
        super().__init__(2, outputs, bias=bias)


@pytest.mark.parametrize("word", ["false", "False", False])
def test_false_of_a_file_or_a_command_line_is_false(word):
    options = {"policy": f"{HERE}:Biased", "policy_options": {"bias": word}}
    assert Learner(Config(**SMALL, **options)).policy.network.module.bias is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "Normalised"}, "BatchNorm1d at 1: the actions of a batch would depend on one"),
        ({"policy": "Dropped"}, "Dropout at 1: the probability of an action would differ"),
        ({"policy": "Recurrent"}, "GRU at core: .* --learner rl2"),
        ({"policy": "TooFew"}, "gives 1 numbers for each observation, not the 2"),
        ({"policy": "Fails"}, r"fails on observations of zeros: RuntimeError: .*raised at"),
        ({"policy": "NotMade"}, "cannot be made: TypeError: .*width"),
        (
            {"policy": "Misnamed"},
            "head names top.weight, which is no parameter; it has bias, weight",
        ),
        ({"policy": "Plain", "adapts": "head"}, "names no head; give the class"),
        ({"policy": "Plain", "adapts": "context"}, "names no context; give the class"),
        (
            {"policy": "Plain", "policy_options": {"depth": 3}},
            "cannot be made: TypeError: .*depth.*; it takes ",
        ),
        ({"policy": "Absent"}, "module test_modules has no Absent"),
        ({"policy": "SMALL"}, "must be a class of torch.nn.Module"),
    ],
)
def test_a_module_that_does_not_fit_is_refused_with_the_remedy(options, message):
    with pytest.raises(UsageError, match=message) as raised:
        Learner(Config(**{**SMALL, **options, "policy": f"{HERE}:{options['policy']}"}))
    assert "<string>" not in str(raised.value)  # code that dataclasses generates


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnn", "--policy cnn reads images, a Box of bytes"),
        ("resnet", "--policy resnet must be one of auto, mlp, cnn, encoder, or MODULE:CLASS"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(name, message):
    with pytest.raises(UsageError, match=message):
        Learner(Config(**SMALL, policy=name))


class Branches(nn.Linear):
    """Looks at a value, which torch.func cannot batch."""

    def __init__(self, space, outputs):
        super().__init__(2, outputs)

    def forward(self, observations):
        return super().forward(observations) * (2.0 if observations.sum().item() > 1e9 else 1.0)


def test_a_module_that_cannot_be_batched_runs_one_task_at_a_time(caplog):
    each = [Learner(Config(**SMALL, policy=f"{HERE}:{name}")) for name in ("Branches", "Plain")]
    assert "one task at a time, because torch.func cannot batch it" in caplog.text
    ours, theirs = (learner.iterate() for learner in each)
    assert ours["return/after"] == pytest.approx(theirs["return/after"], rel=1e-5)


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory):
    """A folder with the two files of experiments/own_policy and a run of them."""
    folder = tmp_path_factory.mktemp("own")
    for path in (ROOT / "experiments" / "own_policy").glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    train(folder, "run", "--policy", "net:Net", "--policy-options", "channels", "3")
    return folder


def train(folder, name, *options):
    small = [
        "--iterations",
        "2",
        "--meta-batch-size",
        "2",
        "--episodes",
        "2",
        "--horizon",
        "4",
        "--eval-every",
        "0",
    ]
    command = ("train", "--family", "pixel_grid:PixelGrid-v0", *small, "--run-dir", name, *options)
    result = python("-m", "metarl", *command, cwd=folder)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def exported(own_folder):
    """The folder, in which the run goes on, is evaluated and exported."""
    for command in (
        ("train", "--resume", "--run-dir", "run", "--iterations", "3"),
        ("evaluate", "run", "--tasks", "2"),
        ("adapt", "run", "--task", "goal=1,5", "--out", "exported"),
    ):
        result = python("-m", "metarl", *command, "--trust", cwd=own_folder)
        assert result.returncode == 0, result.stderr
    return own_folder


def test_a_network_in_the_working_folder_is_found_by_every_command(exported):
    config = json.loads((exported / "run" / "config.json").read_text())["config"]
    assert (config["policy"], config["policy_options"]) == ("net:Net", {"channels": 3})
    about = json.loads((exported / "exported" / "policy.json").read_text())
    assert about["module"] == "net:Net"
    assert about["observation_size"] == 147


CHECK = """
import gymnasium, numpy as np, torch
from metarl import load
learner = load("run", trust=True)
adapted = learner.adapt({"goal": [1, 5]})
program = torch.export.load("exported/policy.pt2").module()
env = learner.family.make()
image, _ = env.reset(seed=0)
row = torch.from_numpy(gymnasium.spaces.flatten(env.observation_space, image)).float()[None]
assert int(program(row.expand(3, -1))[0]) == adapted.policy.act(image, 0.0)
"""


def test_the_exported_program_acts_as_the_adapted_policy(exported):
    result = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=exported, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("policy", [f"{HERE}:Plain", "encoder"])
def test_a_recurrent_policy_reads_observations_through_an_encoder(policy):
    config = RL2Config(
        family="envs:Navigation2D-v0", policy=policy, trials=4, episodes=2, horizon=5,
        hidden_size=8, device="cpu", threads=1,
    )  # fmt: skip
    learner = RL2Learner(config)
    names = [name for name, _ in learner.network.named_parameters()]
    assert any(name.startswith("encoder.") for name in names)
    before = {n: p.detach().clone() for n, p in learner.network.named_parameters()}
    list(learner.learn(2))
    for name, p in learner.network.named_parameters():
        assert not torch.equal(p, before[name]), name
    again = RL2Learner(config)
    again.load_state(learner.state())
    assert again.iterate()["return/after"] == learner.iterate()["return/after"]


def test_an_oracle_reads_the_task_beside_the_image():
    options = {**SMALL, "family": "space_families:Space-image-v0", "policy": "encoder"}
    learner = Learner(Config(**options, inner_steps=0, observe_task=True))
    policy, hints = learner.policy, learner._task_size()
    assert set(policy.network.observations.space.spaces) == {"observation", "task"}
    learner.iterate()
    row = torch.zeros(1, 1, 1, policy.network.observations.size)
    row[..., -hints:] = 1.0
    parameters = expand(learner.parameters, 1)
    action = torch.zeros(1, 1, 1, dtype=torch.int64)
    with torch.no_grad():
        one, other = (policy.distribution(parameters, x).log_prob(action) for x in (row, 0 * row))
    assert not torch.equal(one, other)


class Features(nn.Module):
    """Random features in a buffer, which no one learns, and a head that the policy does not use."""

    def __init__(self, space, outputs):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(math.prod(space.shape), 8))
        self.inner = nn.Linear(8, outputs)
        self.critic = nn.Linear(8, 1)

    def forward(self, observations):
        return self.inner((observations @ self.frequencies).sin())


def test_buffers_are_those_of_the_seed_and_part_of_the_checkpoint():
    def made(seed):
        return Learner(Config(**SMALL, policy=f"{HERE}:Features", seed=seed))

    def frequencies(learner):
        return learner.policy.network.buffers()["frequencies"].clone()

    one, again, other = made(1), made(1), made(2)
    assert torch.equal(frequencies(one), frequencies(again))
    assert not torch.equal(frequencies(one), frequencies(other))
    list(one.learn(2))  # no gradient reaches the critic
    other.load_state(one.state())
    assert torch.equal(frequencies(one), frequencies(other))
    third = made(3)
    third.initialise(one)
    assert torch.equal(frequencies(one), frequencies(third))
    task = {"goal": [0.3, 0.1]}
    ours, theirs = (learner.adapt(task, 1, seed=5) for learner in (one, other))
    assert np.array_equal(ours.episode_returns, theirs.episode_returns)


def test_a_recurrent_policy_may_have_a_head_that_it_does_not_use():
    sizes = {"trials": 4, "episodes": 2, "horizon": 5, "hidden_size": 8, "device": "cpu"}
    RL2Learner(RL2Config("envs:Navigation2D-v0", policy=f"{HERE}:Features", **sizes)).iterate()


def test_a_run_with_a_module_is_loaded(own_folder, monkeypatch):
    monkeypatch.chdir(own_folder)
    monkeypatch.syspath_prepend(str(own_folder))
    learner = load(Path("run"), trust=True)
    assert type(learner.policy.network.module).__name__ == "Net"
    assert learner.policy.network.module.convolution.out_channels == 3


@pytest.mark.parametrize(
    ("adapts", "changed"),
    [("head", {"out.weight", "out.bias"}), ("context", {"task"})],
)
def test_an_adaptation_changes_only_what_the_network_names(
    own_folder, monkeypatch, adapts, changed
):
    monkeypatch.chdir(own_folder)
    monkeypatch.syspath_prepend(str(own_folder))
    config = Config(family="pixel_grid:PixelGrid-v0", policy="net:Net", adapts=adapts, **TINY)
    learner = Learner(config)
    before = {**learner.parameters, **learner.policy.network.fresh}
    after = learner.adapt({"goal": [0, 0]}, steps=1).parameters
    assert {n for n, p in after.items() if not torch.equal(p, before[n])} == changed


TINY = {"meta_batch_size": 2, "episodes": 4, "horizon": 4, "device": "cpu"}


def test_the_spread_of_actions_is_exported_in_the_units_of_the_environment():
    options = {**SMALL, "action_scale": 4.0, "hidden_sizes": (8,)}  # over a range of ±.1
    for policy in ("mlp", f"{HERE}:Layers"):
        learner = Learner(Config(**options, policy=policy))
        std = learner.adapt({"goal": [0.1, 0.1]}, steps=0).policy.description()["std"]
        assert std == pytest.approx([0.1 / 4.0] * 2)
