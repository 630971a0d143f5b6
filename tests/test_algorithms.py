"""Every named algorithm, and the parts that only some have."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from metarl import Config, Learner, UsageError
from metarl.learners import maml
from metarl.learners.presets import ALGORITHMS
from metarl.maml.estimators import lvc, naive
from metarl.maml.inner_loop import InnerLoop
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.outer.evolution import EvolutionOptions, EvolutionStrategies
from metarl.outer.loop import StepSizeOptions
from metarl.outer.objective import divergence, surrogate
from metarl.outer.policy_gradient import PolicyGradient
from metarl.outer.ppo import PPO, PPOOptions, clipped_surrogate, inner_divergence
from metarl.outer.reptile import Reptile
from metarl.policies.parameters import expand, flatten, unflatten
from metarl.policies.policy import PolicyOptions, make_policy
from metarl.sampling.data import Batch
from metarl.support.parallel import Workers
from metarl.support.randomness import RandomKey

SMALL = {
    "family": "envs:Navigation2D-v0",
    "meta_batch_size": 4,
    "episodes": 3,
    "horizon": 8,
    "hidden_sizes": (6,),
    "device": "cpu",
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_updates_and_resumes_bit_for_bit(name):
    # With the larger steps, the Fisher products of dice's few episodes overflow.
    small = SMALL | ({"inner_lr": 0.02} if name == "dice-maml" else {})
    whole = Learner(Config.of(name, **small))
    initial = {n: p.clone() for n, p in whole.parameters.items()}
    metrics = list(whole.learn(3))
    assert all(math.isfinite(value) for m in metrics for value in m.values())
    assert ("inner/step_size_max" in metrics[-1]) == (name == "meta-sgd")
    assert any(not torch.equal(initial[n], p) for n, p in whole.parameters.items())

    first = Learner(Config.of(name, **small))
    list(first.learn(2))
    second = Learner(Config.of(name, **small))
    second.load_state(first.state())
    list(second.learn(3))
    for n, p in whole.parameters.items():
        assert torch.equal(p, second.parameters[n]), n


def test_a_run_with_a_network_baseline_differs_in_its_advantages_alone():
    linear = Learner(Config(**SMALL)).iterate()
    network = Learner(Config(**SMALL, baseline="network")).iterate()
    assert network["return/before"] == linear["return/before"]
    assert network["outer/gradient_norm"] != linear["outer/gradient_norm"]
    assert network["outer/accepted"] == 1


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_inner_loop_changes_what_it_should(name):
    learner = Learner(Config.of(name, **SMALL, inner_steps=2))
    before = {n: p.clone() for n, p in {**learner.parameters, **learner.inner.fresh}.items()}
    adapted = learner.adapt({"goal": [0.3, 0.3]}).parameters
    changed = {n for n in before if not torch.equal(before[n], adapted[n])}
    network = {n for n in learner.parameters if not n.startswith("step_size.")}
    head = {"layer_1.weight", "layer_1.bias", "log_std"}
    assert changed == {"anil": head, "cavia": {"context"}}.get(name, network)


def test_learned_step_sizes_are_those_of_the_step(inner_parts):
    policy, theta, make_batch = inner_parts
    objective = policy_objective(policy, lvc)
    batch = make_batch(0)
    unit = InnerLoop(objective, 1.0).step(expand(theta, 3), batch)
    sizes = {name: torch.rand_like(p) for name, p in theta.items()}
    learned = theta | {f"step_size.{name}": size for name, size in sizes.items()}
    adapted = InnerLoop(objective, 7.0).step(expand(learned, 3), batch)
    for name, p in theta.items():
        torch.testing.assert_close(adapted[name], p + sizes[name] * (unit[name] - p))
    scalars = theta | {f"step_size.{name}": torch.tensor(0.25).double() for name in theta}
    adapted = InnerLoop(objective, 7.0, later_factor=0.5).step(expand(scalars, 3), batch, 1)
    for name, p in theta.items():
        torch.testing.assert_close(adapted[name], p + 0.125 * (unit[name] - p))


@pytest.fixture
def inner_parts(policy, theta, make_random_batch):
    return policy, theta, make_random_batch


@pytest.mark.parametrize("kind", ["step_sizes", "context", "head", "correction", "clipped"])
def test_the_meta_gradient_of_every_part_agrees_with_finite_differences(
    policy, theta, make_random_batch, workers, kind
):
    inner = InnerLoop(policy_objective(policy, lvc), 0.3)
    if kind == "step_sizes":
        theta = theta | {f"step_size.{n}": torch.full_like(p, 0.2) for n, p in theta.items()}
    elif kind == "context":
        network = dataclasses.replace(policy.network, observation_size=1, context_size=2)
        policy = dataclasses.replace(policy, network=network)
        inner = InnerLoop(
            policy_objective(policy, lvc),
            0.3,
            adapts="context".__eq__,
            fresh={"context": torch.zeros(2, dtype=torch.float64)},
        )
    elif kind == "head":
        inner = dataclasses.replace(inner, adapts=policy.head.__contains__)
    batches = [make_random_batch(i) for i in range(3)]
    if kind == "context":
        batches = [
            dataclasses.replace(b, observations=b.observations[..., :1].contiguous())
            for b in batches
        ]
    adapted = inner.path(inner.begin(theta, 3), batches[:-1])[-1]
    objective = MetaObjective(policy, inner, batches, theta, adapted, workers, kind == "correction")
    point = {name: p + 0.01 for name, p in theta.items()}
    ppo = PPO(PPOOptions(clip=0.2, inner_kl_penalty=0.7))

    def value(vector):
        parameters = unflatten(vector, point)
        if kind != "clipped":
            return objective.value(parameters)[0]
        return objective.means(parameters, ppo.term)[0]

    if kind == "clipped":
        ours = objective.gradient(point, ppo.term)[1]
    else:
        ours = objective.gradient(point)[1]
    vector, h = flatten(point), 1e-6
    numeric = [
        (value(vector + h * unit) - value(vector - h * unit)) / (2 * h)
        for unit in torch.eye(len(vector), dtype=torch.float64)
    ]
    torch.testing.assert_close(
        flatten(ours), torch.tensor(numeric, dtype=torch.float64), rtol=1e-5, atol=1e-8
    )


def test_the_mean_correction_is_the_sum_over_the_number_of_steps(
    policy, theta, make_random_batch, workers
):
    inner = InnerLoop(policy_objective(policy, naive), 0.3)
    batches = [make_random_batch(i) for i in range(2)]
    steps = batches[0].weight[0].sum()
    batches[0] = dataclasses.replace(batches[0], weight=batches[0].weight[:1].expand(3, -1, -1))
    adapted = inner.step(expand(theta, 3), batches[0])

    def gradient(*correction):
        objective = MetaObjective(policy, inner, batches, theta, adapted, workers, *correction)
        return flatten(objective.gradient(theta)[1])

    none, whole, mean = gradient(), gradient(True, "sum"), gradient(True, "mean")
    assert (whole - none).norm() > 0.1 * none.norm()
    torch.testing.assert_close(mean - none, (whole - none) / steps)


class Parabola:
    """surrogate = −½ ‖x − 3‖², to be climbed by anything."""

    def value(self, parameters):
        return -0.5 * (parameters["x"] - 3).square().sum().item(), 0.0

    def gradient(self, parameters, term=None):
        return self.value(parameters)[0], {"x": 3 - parameters["x"]}

    def means(self, parameters, *terms):
        assert terms == (surrogate, divergence, inner_divergence)
        return [*self.value(parameters), 0.04]

    def displacement(self):
        return {"x": torch.full((2,), 0.5)}


ORIGIN = {"x": torch.zeros(2)}


def test_the_clipped_surrogate_and_the_inner_kl_are_those_of_their_definition(
    policy, theta, make_random_batch, workers
):
    inner = InnerLoop(policy_objective(policy, lvc), 0.3)
    before, after = make_random_batch(0), make_random_batch(1)
    adapted = inner.step(expand(theta, 3), before)
    objective = MetaObjective(policy, inner, [before, after], theta, adapted, workers)
    assert objective.means(theta, inner_divergence) == pytest.approx([0], abs=1e-12)
    point = {name: p + 0.05 for name, p in theta.items()}
    moved = inner.step(expand(point, 3), before)
    log_probs = policy.distribution(moved, after.observations).log_prob(after.actions)
    ratio = torch.exp(log_probs - after.log_probs)
    clipped = torch.minimum(ratio * after.advantages, ratio.clamp(0.8, 1.2) * after.advantages)
    old, new = (policy.distribution(expand(p, 3), before.observations) for p in (theta, point))
    kl = before.mean(old.kl(new)).mean().item()
    assert objective.means(point, inner_divergence) == pytest.approx([kl])
    expected = after.mean(clipped).mean().item()
    assert objective.means(point, clipped_surrogate(0.2)) == pytest.approx([expected])
    term = PPO(PPOOptions(clip=0.2, inner_kl_penalty=0.7)).term
    assert objective.gradient(point, term)[0] == pytest.approx(expected - 0.7 * kl)


def test_adam_climbs_as_torchs_own_does():
    outer, theta = PolicyGradient(StepSizeOptions(outer_lr=0.1)), ORIGIN
    leaf = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([leaf], 0.1)
    for _ in range(5):
        theta, metrics = outer.step(Parabola(), theta)
        optimiser.zero_grad()
        (0.5 * (leaf - 3).square().sum()).backward()
        optimiser.step()
        assert metrics["outer/surrogate"] > 0
    torch.testing.assert_close(theta["x"], leaf.detach())


def test_ppo_takes_its_epochs_and_adapts_its_penalty():
    for target, factor in ((0.0, 1), (0.01, 2), (0.2, 0.5), (0.04, 1)):
        options = {"inner_kl_penalty": 0.8, "inner_kl_target": target}
        outer = PPO(PPOOptions(outer_lr=0.1, ppo_epochs=3, **options))
        theta, metrics = outer.step(Parabola(), ORIGIN)
        torch.testing.assert_close(theta["x"], torch.full((2,), 0.3), rtol=0.1, atol=0)
        assert metrics["outer/inner_kl_penalty"] == 0.8
        assert outer.penalty == pytest.approx(0.8 * factor)


def test_a_penalty_of_nothing_is_not_adapted():
    with pytest.raises(UsageError, match="--inner-kl-penalty must be above 0"):
        Config.of("maml-ppo", family="envs:Navigation2D-v0", inner_kl_target=0.01)
    Config.of("promp", family="envs:Navigation2D-v0", inner_kl_target=0.01)


def test_the_natural_gradient_keeps_the_trust_region_of_a_bandit():
    """Its episodes have one step: a tenth of ten left a KL of up to 20 times the claimed one."""
    options = {"meta_batch_size": 20, "episodes": 10, "inner_lr": 10.0, "device": "cpu"}
    bandit = Config.of("maml-trpo", family="envs:BernoulliBandit-v0", outer="natural", **options)
    learner = Learner(bandit)
    for _ in range(4):
        assert learner.iterate()["outer/kl"] < 0.02


@pytest.mark.parametrize("name", ["maml-pg", "maml-ppo", "es-maml"])
def test_a_state_is_a_snapshot(name):
    """Torch changes the moments of Adam in place."""
    learner, twin = (Learner(Config.of(name, **SMALL)) for _ in range(2))
    for own in (learner, twin):
        own.iterate()
    state = learner.state()
    learner.on(learner.family).iterate()
    learner.iterate()
    twin.iterate()
    for n, p in twin.parameters.items():
        assert torch.equal(p, learner.parameters[n])
    learner.load_state(state)
    learner.iterate()
    for n, p in twin.parameters.items():
        assert torch.equal(p, learner.parameters[n])


def test_padding_of_many_actions_is_no_infinite_ratio():
    """On padding the stored log π is 0, and that of the action 0 is e^143 times as likely."""
    policy = make_policy(Box(-1, 1, (5,)), Box(-1, 1, (69,)), PolicyOptions(hidden_sizes=(16,)))
    theta = policy.initial_parameters(np.random.default_rng(0))
    theta["log_std"] = torch.full((69,), math.log(0.05))
    valid = torch.ones(4, 3, 10, dtype=torch.bool)
    valid[:, 0, 6:] = False
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(4, 3, 10, 5, generator=generator) * valid[..., None]
    policies = policy.distribution(expand(theta, 4), observations)
    drawn = policies.sample(torch.randn(4, 3, 10, 69, generator=generator))
    log_probs = policies.log_prob(drawn) * valid
    advantages = torch.randn(4, 3, 10, generator=generator) * valid
    batch = Batch(observations, drawn * valid[..., None], log_probs, advantages, advantages,
                  advantages * 0, valid.float())  # fmt: skip
    shifted = {**theta, "log_std": theta["log_std"] - 0.01}
    inner = InnerLoop(policy_objective(policy, naive), 1e-6)
    adapted = inner.step(inner.begin(theta, 4), batch)
    objective = MetaObjective(policy, inner, [batch, batch], theta, adapted, Workers(1))
    value, gradient = objective.gradient(shifted)
    assert math.isfinite(value)
    assert all(g.isfinite().all() for g in gradient.values())


def test_reptile_ends_at_the_mean_of_the_adapted_parameters():
    learner, adapted = Learner(Config.of("reptile", **SMALL, outer_lr=1.0)), []
    adapt = learner._adapt_in_training
    learner._adapt_in_training = lambda *given: adapted.append(adapt(*given)) or adapted[-1]
    learner.iterate()
    for n, p in learner.parameters.items():
        torch.testing.assert_close(p, adapted[0][0][n].mean(0))


def test_an_adapted_penalty_is_part_of_the_state():
    one, other = (PPO(PPOOptions(inner_kl_penalty=0.5)) for _ in range(2))
    one.penalty = 8.0
    other.load_state(one.state())
    assert other.penalty == 8.0


def test_advantages_have_the_discount_and_the_decay_of_the_options(monkeypatch):
    make, given = maml.make_scaled_batch, set()
    monkeypatch.setattr(maml, "make_scaled_batch", lambda *a: given.add(a[1:3]) or make(*a))
    Learner(Config(**SMALL, discount=0.7, gae_lambda=0.4)).iterate()
    assert given == {(0.7, 0.4)}


@pytest.fixture
def objective_given(monkeypatch):
    """What each objective of an iteration was made with."""
    given = []
    monkeypatch.setattr(maml, "MetaObjective", lambda *a: given.append(a) or MetaObjective(*a))
    return given


def test_the_sampling_correction_scales_by_the_deviations_of_the_last_stage(
    monkeypatch, objective_given
):
    """Times them, the rewards of the last batch are those of its episodes, the last step's apart.

    That one has the value of what would follow.
    """
    learner = Learner(Config.of("e-maml", **SMALL, discount=1.0))
    rollouts, sample = [], learner.sample
    monkeypatch.setattr(learner, "sample", lambda *a: rollouts.append(sample(*a)) or rollouts[-1])
    learner.iterate()
    ((_, _, batches, *_, deviations),) = objective_given
    undone = batches[-1].rewards * deviations[:, None, None]
    seen = rollouts[-1].rewards.double()
    torch.testing.assert_close(undone[..., :-1], seen[..., :-1], rtol=1e-5, atol=1e-5)


def test_a_dropped_task_weighs_nothing_at_any_stage(objective_given):
    learner = Learner(Config(**SMALL, inner_steps=2))
    learner.dropped = frozenset({1})
    learner.iterate()
    ((_, _, batches, *_),) = objective_given
    assert len(batches) == 3
    for batch in batches:
        assert [bool(weight.any()) for weight in batch.weight] == [True, False, True, True]


@pytest.mark.parametrize("adapts", ["all", "head"])
def test_learned_step_sizes_begin_with_the_inner_step_size(adapts):
    learner = Learner(Config(**SMALL, step_sizes="per_parameter", inner_lr=0.3, adapts=adapts))
    sizes = {n: p for n, p in learner.parameters.items() if n.startswith("step_size.")}
    adapted = {n for n in learner.parameters if n not in sizes and learner.inner.adapts(n)}
    assert set(sizes) == {f"step_size.{n}" for n in adapted}
    for name in adapted:
        size = torch.full_like(learner.parameters[name], 0.3)
        torch.testing.assert_close(sizes[f"step_size.{name}"], size)


def test_reptile_moves_a_part_of_the_way():
    theta, _ = Reptile(StepSizeOptions(outer_lr=0.2)).step(Parabola(), ORIGIN)
    assert theta["x"].tolist() == pytest.approx([0.1, 0.1])


class Linear:
    """F(θ) = gᵀθ."""

    def __init__(self, perturbed, slope):
        self.perturbed, self.slope = perturbed, slope

    def returns(self):
        return self.perturbed @ self.slope


def test_evolution_finds_the_gradient_of_a_linear_return():
    """F(θ) = gᵀθ: the estimate is g σ / std(F), up to the noise of 20,000 pairs."""
    outer = EvolutionStrategies(EvolutionOptions(sigma=0.1))
    slope = torch.tensor([1.0, -2.0])
    start = outer.begin(ORIGIN, 40_000, RandomKey(0))
    plus, minus = start.parameters["x"].chunk(2)
    assert start.repeats == 2
    torch.testing.assert_close(plus, -minus)
    assert plus.std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.03)
    theta, metrics = outer.step(Linear(start.parameters["x"], slope), ORIGIN)
    assert metrics["outer/gradient_norm"] == pytest.approx(1 / 0.1, rel=0.03)
    assert theta["x"][0] > 0 > theta["x"][1]


def test_a_contradiction_is_refused_in_python_too():
    with pytest.raises(UsageError, match="needs pairs"):
        Config.of("es-maml", family="x", meta_batch_size=3)
    with pytest.raises(UsageError, match="must be one of maml-trpo"):
        Config.of("maml", family="x")
    with pytest.raises(UsageError, match="--outer trpp must be one of trpo, ppo"):
        Config(family="x", outer="trpp")
    with pytest.raises(UsageError, match="--estimator lcv must be one of naive, lvc"):
        Config(family="x", estimator="lcv")
