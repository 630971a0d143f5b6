"""Observations and actions of any space: `check` and training agree on each, and it works."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from space_families import REFUSED, SPACES, name_of

from metarl import Config, Learner, UsageError
from metarl.learners.rl2 import RL2Config, RL2Learner
from metarl.policies.action_units import ActionUnits, native_actions
from metarl.policies.normalisation import sums_of
from metarl.policies.observations import Observations, same_form
from metarl.policies.parameters import expand
from metarl.policies.policy import PolicyOptions, make_policy
from metarl.simulation.checker import check_family
from metarl.simulation.checks import CHECKS
from metarl.tasks.family import make_family

SMALL = {"meta_batch_size": 2, "episodes": 2, "device": "cpu", "hidden_sizes": (8,)}


LOOKING_AT_SPACES = {"runs", "a policy fits", "spaces hold", "vector agrees", "scales"}


@pytest.mark.parametrize("kind", SPACES)
def test_check_passes_what_trains(kind, monkeypatch):
    looking = {name: CHECKS[name] for name in CHECKS if name in LOOKING_AT_SPACES}
    monkeypatch.setattr("metarl.simulation.checker.CHECKS", looking)  # the others take seconds
    name = name_of(kind)
    faults = [f for f in check_family(make_family(name)) if not f.passed]
    assert not faults, faults
    learner = Learner(Config(family=name, **SMALL))
    list(learner.learn(1))
    adapted = learner.adapt(learner.family.task_env.task)
    observation = learner.observation_space.sample()
    assert adapted.policy.act(observation, 0.0) in learner.action_space
    recurrent = RL2Learner(
        RL2Config(family=name, trials=4, episodes=2, hidden_size=8, device="cpu")
    )
    list(recurrent.learn(1))
    deployed = recurrent.adapt(recurrent.family.task_env.task).policy
    assert deployed.act(observation, 0.0) in learner.action_space
    if kind == "integers":  # the exported program rounds too
        rows = torch.randn(3, 2)
        _, *others = deployed.example(3)
        for actions in (adapted.policy(rows), deployed(rows, *others)[0]):
            assert torch.equal(actions, actions.round())


@pytest.mark.parametrize("kind", REFUSED)
def test_check_refuses_what_training_refuses(kind):
    with pytest.raises(UsageError) as training:
        Learner(Config(family=name_of(kind), **SMALL))
    faults = [f for f in check_family(make_family(name_of(kind))) if not f.passed]
    assert [fault.name for fault in faults] == ["a policy fits"]
    assert str(training.value).removeprefix(f"{name_of(kind)}: ") == faults[0].detail


@pytest.mark.parametrize("kind", SPACES)
def test_a_flat_observation_becomes_that_of_the_space_again(kind):
    space, _ = SPACES[kind]
    space.seed(3)
    each = [space.sample() for _ in range(4)]
    observations = Observations.of(space)
    rows = torch.from_numpy(np.stack([observations.flat(value) for value in each])).float()
    assert rows.shape == (4, observations.size)
    compare(space, observations.structured(observations.scaled(rows)), each)


def compare(space, structured, each):
    """`structured` has the rows of `each` in the form that policies read."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        names = space.spaces if isinstance(space, spaces.Dict) else range(len(space.spaces))
        for name in names:
            compare(space[name], structured[name], [value[name] for value in each])
        return
    expected = np.stack([spaces.flatten(space, value) for value in each]).astype(np.float32)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        expected = expected.reshape(len(each), *space.shape)
    if space.dtype == np.uint8 and len(space.shape) > 1:
        expected = expected / 255
    np.testing.assert_allclose(structured.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "policy_actions", "expected"),
    [
        (spaces.Discrete(3, start=-1), [0, 2], [-1, 1]),
        (spaces.MultiDiscrete([3, 2], start=[4, -1]), [[0, 1], [2, 0]], [[4, 0], [6, -1]]),
        (spaces.MultiDiscrete([[2, 3]]), [[1, 2]], [[[1, 2]]]),
        (spaces.MultiBinary((2, 2)), [[0, 1, 1, 0]], [[[0, 1], [1, 0]]]),
        (spaces.Box(-2.0, 2.0, (2, 1), np.float64), [[0.5, -9.0]], [[[1.0], [-2.0]]]),
        (spaces.Box(-3, 3, (2,), np.int64), [[0.2, 0.5]], [[1, 2]]),  # .6 and 1.5, rounded
        (spaces.Box(-2.0, 2.0, ()), [[0.25]], [0.5]),
    ],
)
def test_policy_actions_become_those_of_the_space(space, policy_actions, expected):
    flat = ActionUnits.of(space, 1.0).to_environment(torch.tensor(policy_actions))
    native = native_actions(space, flat.numpy())
    np.testing.assert_allclose(native, expected)
    assert native.dtype == space.dtype
    assert all(np.asarray(action) in space for action in native)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_perceptron_and_a_module_get_the_same_numbers(normalise):
    """Bytes are divided by 255 once, unless observations are normalised."""
    space, _ = SPACES["nested"]
    images = np.random.default_rng(0).integers(0, 256, (2, 4, Observations.of(space).size))
    rows = torch.from_numpy(images).float()
    for name in ("mlp", "test_spaces:Keep"):
        options = PolicyOptions(name, hidden_sizes=(), normalise=normalise)
        policy = make_policy(space, spaces.Discrete(2), options)
        if policy.normaliser is not None:
            policy.normaliser.add_sums(*sums_of(rows.flatten(0, 1)))
        theta = policy.initial_parameters(np.random.default_rng(0))
        theta = {n: torch.ones_like(p) if "weight" in n else p for n, p in theta.items()}
        output = policy.network.output(expand(theta, 2), rows)[..., 0]
        divisors = Observations.of(space).divisors(rows.device)
        expected = policy.normaliser(rows) if normalise else rows / divisors
        torch.testing.assert_close(output, expected.sum(-1), rtol=1e-4, atol=1e-3)


class Keep(torch.nn.Linear):
    """The sum of all numbers."""

    def __init__(self, space, outputs):
        super().__init__(Observations.of(space).size, outputs, bias=False)

    def forward(self, observations):
        place, bits = observations["rest"]
        return super().forward(torch.cat([observations["image"].flatten(1), place, bits], -1))


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        (spaces.Discrete(3), spaces.Discrete(4), False),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-9, 9, (2,)), True),
        (spaces.Dict(a=spaces.Discrete(2)), spaces.Dict(b=spaces.Discrete(2)), False),
        (spaces.Dict(a=spaces.Discrete(2)), spaces.Dict(a=spaces.Discrete(3)), False),
        (spaces.Dict(a=spaces.Box(0, 1)), spaces.Dict(a=spaces.Box(0, 2)), True),
        (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2]), False),
    ],
)
def test_a_policy_fits_another_space_if_all_but_the_bounds_agree(one, other, fits):
    assert same_form(one, other) is fits
