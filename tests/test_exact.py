"""Estimators of the meta-gradient against the truth, by enumeration in float64.

Each estimator's expectation is computed by the code that trains, from a batch that holds every
trajectory with its probability, and compared with formulas that share nothing with it.
"""

import functools
import itertools

import numpy as np
import pytest
import torch

from metarl.maml.estimators import SURROGATES, dice, loaded_dice, lvc, naive, taypo2
from metarl.maml.exact import (
    adapted_exactly,
    enumerated_batch,
    estimated_meta_gradient,
    exact_meta_gradient,
    expected_return,
    random_mdp,
    random_parameters,
    sampler,
    stationary_return,
    tabular_batch,
    trajectories,
)
from metarl.maml.inner_loop import InnerLoop
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.policies.parameters import expand, flatten, unflatten
from metarl.support.parallel import Workers

HORIZON, RATE = 3, 0.5
EXACT = [dice, loaded_dice, taypo2]


def problem(seed, **sizes):
    generator = np.random.default_rng(seed)
    mdp = random_mdp(generator, **sizes)
    return mdp, random_parameters(mdp, generator)


def error(ours, truth):
    return ((flatten(ours) - flatten(truth)).norm() / flatten(truth).norm()).item()


def expected_of(mdp, horizon=HORIZON):
    return lambda parameters: expected_return(mdp, parameters, horizon)


# The truth itself.


def test_the_exact_return_is_the_sum_over_trajectories():
    mdp, theta = problem(0)
    states, actions, dynamics = trajectories(mdp, HORIZON)
    total = 0.0
    for s, a, p in zip(states.tolist(), actions.tolist(), dynamics.tolist(), strict=True):
        for t in range(HORIZON):
            p *= torch.softmax(theta["layer_0.weight"][s[t]], -1)[a[t]].item()
        total += p * sum(0.9**t * mdp.reward[s[t], a[t]].item() for t in range(HORIZON))
    assert expected_return(mdp, theta, HORIZON, 0.9).item() == pytest.approx(total, rel=1e-12)
    assert enumerated_batch(mdp, theta, HORIZON).weight[0, :, 0].sum().item() == pytest.approx(1)


def test_the_stationary_return_is_the_limit_of_long_episodes():
    mdp, theta = problem(1, states=8, actions=4)
    endless = stationary_return(mdp, theta, 0.7).item()
    assert expected_return(mdp, theta, 120, 0.7).item() == pytest.approx(endless, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("endless", [False, True])
def test_the_exact_meta_gradient_agrees_with_finite_differences(steps, endless):
    mdp, theta = problem(2, states=4, actions=3)

    def expected(parameters):
        if endless:
            return stationary_return(mdp, parameters, 0.8)
        return expected_return(mdp, parameters, HORIZON)

    def after(vector):
        leaves = {k: p.requires_grad_() for k, p in unflatten(vector.clone(), theta).items()}
        return expected(adapted_exactly(expected, leaves, RATE, steps)).item()

    point, h = flatten(theta), 1e-6
    numeric = [
        (after(point + h * unit) - after(point - h * unit)) / (2 * h)
        for unit in torch.eye(len(point), dtype=point.dtype)
    ]
    exact = flatten(exact_meta_gradient(expected, theta, RATE, steps))
    torch.testing.assert_close(exact, torch.stack([torch.tensor(x) for x in numeric]).double(),
                               rtol=1e-6, atol=1e-8)  # fmt: skip


# The estimators' expectations.


@pytest.mark.parametrize("surrogate", EXACT)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("baseline", [True, False])
def test_the_expected_meta_gradient_is_exact(surrogate, steps, baseline):
    for seed in range(5):
        mdp, theta = problem(seed)
        truth = exact_meta_gradient(expected_of(mdp), theta, RATE, steps)
        ours = estimated_meta_gradient(
            mdp, theta, surrogate, HORIZON, RATE, steps, baseline=baseline
        )
        assert error(ours, truth) < 1e-10


def plain_hessian(mdp, theta, h1, baseline):
    """H2 = E Σ_t ∇²log π_t A_t, and H1 = E Σ_t s_t s_tᵀ A_t with it, one trajectory a time."""
    states, actions, dynamics = trajectories(mdp, HORIZON)
    point = flatten(theta)

    def log_prob(vector, s, a):
        p = unflatten(vector, theta)
        return torch.log_softmax(p["layer_0.weight"][s] + p["layer_0.bias"], -1)[a]

    pairs = list(itertools.product(*map(range, mdp.reward.shape)))
    score = {p: torch.func.grad(log_prob)(point, *p) for p in pairs}
    curvature = {
        p: torch.autograd.functional.hessian(functools.partial(log_prob, s=p[0], a=p[1]), point)
        for p in pairs
    }
    policy = mdp.log_policy(theta).exp()
    value = [torch.zeros(len(mdp.initial), dtype=torch.float64)]
    for _ in range(HORIZON):
        value.insert(0, (policy * (mdp.reward + mdp.transition @ value[0])).sum(-1))
    total = torch.zeros(len(point), len(point), dtype=torch.float64)
    for s, a, p in zip(states.tolist(), actions.tolist(), dynamics, strict=True):
        rewards = [mdp.reward[pair] for pair in zip(s, a, strict=True)]
        for pair in zip(s, a, strict=True):
            p = p * policy[pair]
        for t, pair in enumerate(zip(s, a, strict=True)):
            advantage = sum(rewards[t:]) - baseline * value[t][s[t]]
            outer = torch.outer(score[pair], score[pair]) if h1 else 0
            total += p * advantage * (curvature[pair] + outer)
    return total


@pytest.mark.parametrize(("surrogate", "h1"), [(naive, False), (lvc, True)])
@pytest.mark.parametrize("baseline", [True, False])
def test_the_expected_meta_gradient_has_the_known_hessian(surrogate, h1, baseline):
    mdp, theta = problem(3)
    expected = expected_of(mdp)
    hessian = plain_hessian(mdp, theta, h1, baseline)
    leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}
    after = {n: p.detach() for n, p in adapted_exactly(expected, leaves, RATE, 1).items()}
    gradient = flatten(exact_meta_gradient(expected, after, RATE, 0))
    known = gradient + RATE * hessian @ gradient
    ours = estimated_meta_gradient(mdp, theta, surrogate, HORIZON, RATE, 1, baseline=baseline)
    torch.testing.assert_close(flatten(ours), known, rtol=1e-10, atol=1e-12)
    truth = exact_meta_gradient(expected, theta, RATE, 1)
    assert error(ours, truth) > 0.01, "it would not be told from the exact one"


def test_lvc_does_not_depend_on_the_baseline_and_naive_does():
    mdp, theta = problem(4)
    for surrogate, depends in ((lvc, False), (naive, True)):
        one, other = (
            estimated_meta_gradient(mdp, theta, surrogate, HORIZON, RATE, 1, baseline=b)
            for b in (True, False)
        )
        assert (error(one, other) > 0.01) == depends


def test_first_order_is_the_gradient_after_adaptation():
    mdp, theta = problem(5)
    expected = expected_of(mdp)
    leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}
    after = {n: p.detach() for n, p in adapted_exactly(expected, leaves, RATE, 2).items()}
    ours = estimated_meta_gradient(mdp, theta, lvc, HORIZON, RATE, 2, first_order=True)
    assert error(ours, exact_meta_gradient(expected, after, RATE, 0)) < 1e-12


def test_a_decay_of_loaded_dice_trades_exactness():
    mdp, theta = problem(6)
    truth = exact_meta_gradient(expected_of(mdp), theta, RATE, 1)
    errors = [
        error(
            estimated_meta_gradient(
                mdp, theta, functools.partial(loaded_dice, decay=decay), HORIZON, RATE, 1
            ),
            truth,
        )
        for decay in (1.0, 0.9, 0.5, 0.0)
    ]
    assert errors[0] < 1e-10
    assert errors == sorted(errors)
    without = estimated_meta_gradient(mdp, theta, lvc, HORIZON, RATE, 1)
    assert errors[-1] == pytest.approx(error(without, truth)), "decay 0 leaves lvc"


# Sampling.


def finite_batches(mdp, theta, surrogate, correction, horizon=2, episodes=2):
    """Σ over all batches of their probability × the meta-gradient computed from each."""
    states, actions, dynamics = trajectories(mdp, horizon)
    probability = dynamics * mdp.log_policy(theta)[states, actions].sum(-1).exp()
    inner = InnerLoop(policy_objective(mdp.policy, surrogate), RATE * horizon)
    total = torch.zeros_like(flatten(theta))
    for index in itertools.product(range(len(states)), repeat=episodes):
        index = list(index)
        before = tabular_batch(mdp, theta, states[index], actions[index])
        adapted = inner.step(expand(theta, 1), before)
        after = enumerated_batch(mdp, {k: p[0] for k, p in adapted.items()}, horizon)
        objective = MetaObjective(
            mdp.policy, inner, [before, after], theta, adapted, Workers(1), correction
        )
        gradient = horizon * flatten(objective.gradient(theta)[1])
        total += probability[index].prod() * gradient
    return total


def exact_finite_batch_gradient(mdp, theta, horizon=2, episodes=2):
    """∇_θ Σ_batches p_θ(batch) J(θ + α mean over the batch of Σ_t ∇log π_θ A_t)."""
    states, actions, dynamics = trajectories(mdp, horizon)
    leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}
    log_policy = mdp.log_policy(leaves)
    log_probs = log_policy[states, actions]
    fixed = enumerated_batch(mdp, theta, horizon)
    gradients = [
        torch.autograd.grad(
            (log_probs[i] * fixed.advantages[0, i]).sum(), tuple(leaves.values()), create_graph=True
        )
        for i in range(len(states))
    ]
    total = 0.0
    for index in itertools.product(range(len(states)), repeat=episodes):
        adapted = {
            name: p + RATE * sum(gradients[i][k] for i in index) / episodes
            for k, (name, p) in enumerate(leaves.items())
        }
        p = torch.stack([dynamics[i] * log_probs[i].sum().exp() for i in index]).prod()
        total = total + p * expected_return(mdp, adapted, horizon)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, tuple(leaves.values()))])


def test_the_sampling_correction_makes_the_finite_batch_objective_exact():
    """E-MAML's term with the naive surrogate, over all 64² batches of two episodes."""
    mdp, theta = problem(7, states=2)
    truth = exact_finite_batch_gradient(mdp, theta)
    corrected = finite_batches(mdp, theta, naive, correction=True)
    torch.testing.assert_close(corrected, truth, rtol=1e-9, atol=1e-12)
    plain = finite_batches(mdp, theta, naive, correction=False)
    assert (plain - truth).norm() > 0.02 * truth.norm(), "it would not be missed"


@pytest.mark.parametrize("name", sorted(SURROGATES))
def test_monte_carlo_estimates_converge_at_the_root_of_the_sample(name):
    """25 times the episodes, a fifth of the error, towards the estimator's expectation."""
    mdp, theta = problem(8, states=2)
    generator = np.random.default_rng(0)
    limit = estimated_meta_gradient(mdp, theta, SURROGATES[name], HORIZON, RATE, 1)

    def typical_error(number, repeats=30):
        errors = [
            error(
                estimated_meta_gradient(
                    mdp, theta, SURROGATES[name], HORIZON, RATE, 1,
                    collect=sampler(mdp, HORIZON, number, generator),
                ),
                limit,
            )
            for _ in range(repeats)
        ]  # fmt: skip
        return np.sqrt(np.mean(np.square(errors)))

    ratio = typical_error(1_000) / typical_error(25_000)
    assert 3.5 < ratio < 7
