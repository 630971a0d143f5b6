import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.policies.action_distributions import MINIMUM_LOG_STD, Categorical, Gaussian
from metarl.policies.actions import ContinuousActions, DiscreteActions
from metarl.policies.mlp import MLP
from metarl.policies.parameters import expand, flatten, unflatten
from metarl.policies.policy import Policy, make_policy
from metarl.support.errors import UsageError


def normals(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_gaussian_agrees_with_torch_distributions():
    mean, other_mean, log_std, other_log_std, actions = normals(
        (2, 5, 3), (2, 5, 3), (2, 1, 3), (2, 1, 3), (2, 5, 3)
    )
    ours, other = Gaussian(mean, log_std), Gaussian(other_mean, other_log_std)
    reference = torch.distributions.Normal(mean, log_std.exp())
    other_reference = torch.distributions.Normal(other_mean, other_log_std.exp())
    torch.testing.assert_close(ours.log_prob(actions), reference.log_prob(actions).sum(-1))
    expected = torch.distributions.kl_divergence(reference, other_reference).sum(-1)
    torch.testing.assert_close(ours.kl(other), expected)


def test_categorical_agrees_with_torch_distributions():
    logits, other_logits = normals((2, 5, 4), (2, 5, 4))
    actions = torch.randint(4, (2, 5))
    ours = Categorical(torch.log_softmax(logits, -1))
    other = Categorical(torch.log_softmax(other_logits, -1))
    reference = torch.distributions.Categorical(logits=logits)
    other_reference = torch.distributions.Categorical(logits=other_logits)
    torch.testing.assert_close(ours.log_prob(actions), reference.log_prob(actions))
    expected = torch.distributions.kl_divergence(reference, other_reference)
    torch.testing.assert_close(ours.kl(other), expected)


def test_categorical_samples_have_the_distributions_frequencies():
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    policy = Policy(MLP(1, 3), DiscreteActions(3))
    noise = torch.from_numpy(policy.noise(np.random.default_rng(0), 1, 40_000))
    samples = Categorical(probabilities.log().expand(1, 40_000, 3)).sample(noise)
    frequencies = torch.bincount(samples.flatten()) / 40_000
    torch.testing.assert_close(frequencies, probabilities, atol=0.01, rtol=0)


def test_gaussian_samples_have_the_distributions_moments():
    policy = Policy(MLP(1, 1), ContinuousActions(1))
    noise = torch.from_numpy(policy.noise(np.random.default_rng(0), 1, 40_000))
    samples = Gaussian(torch.tensor([[[2.0]]]), torch.tensor([[[0.5]]])).sample(noise)
    assert samples.mean().item() == pytest.approx(2.0, abs=0.03)
    assert samples.std().item() == pytest.approx(np.exp(0.5), rel=0.02)


def test_each_task_is_computed_with_its_own_parameters():
    policy = Policy(MLP(3, 2, hidden_sizes=(4, 4)), ContinuousActions(2))
    each = [policy.initial_parameters(np.random.default_rng(i)) for i in range(3)]
    together = {name: torch.stack([p[name] for p in each]) for name in each[0]}
    observations = torch.randn(3, 6, 5, 3)
    mean, _ = policy.distribution(together, observations)
    for i, parameters in enumerate(each):
        x = observations[i]
        for layer in ("layer_0", "layer_1"):
            x = torch.tanh(x @ parameters[f"{layer}.weight"] + parameters[f"{layer}.bias"])
        x = x @ parameters["layer_2.weight"] + parameters["layer_2.bias"]
        torch.testing.assert_close(mean[i], x)


def test_the_standard_deviation_has_a_floor():
    policy = Policy(MLP(1, 1), ContinuousActions(1))
    parameters = expand(policy.initial_parameters(np.random.default_rng(0)), 1)
    parameters["log_std"] = torch.full((1, 1), -100.0)
    _, log_std = policy.distribution(parameters, torch.zeros(1, 2, 1))
    assert log_std.item() == pytest.approx(MINIMUM_LOG_STD)


def test_flatten_and_unflatten_are_inverse():
    parameters = Policy(MLP(3, 2), ContinuousActions(2)).initial_parameters(
        np.random.default_rng(0)
    )
    back = unflatten(flatten(parameters), parameters)
    assert list(back) == list(parameters)
    assert all(torch.equal(back[name], parameters[name]) for name in parameters)


def test_the_policy_fits_the_spaces():
    box = spaces.Box(-1, 1, (2, 3))
    assert make_policy(box, spaces.Discrete(4)) == Policy(MLP(6, 4), DiscreteActions(4))
    assert make_policy(box, spaces.Box(-1, 1, (2,))) == Policy(MLP(6, 2), ContinuousActions(2))
    with pytest.raises(UsageError, match="action space Dict"):
        make_policy(box, spaces.Dict())
    with pytest.raises(UsageError, match="observation is a Sequence"):
        make_policy(spaces.Sequence(box), box)
