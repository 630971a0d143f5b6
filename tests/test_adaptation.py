"""The inner loop and the meta-gradient against finite differences and a plain loop over tasks."""

import dataclasses

import pytest
import torch

from metarl.maml import meta_objective
from metarl.maml.estimators import lvc
from metarl.maml.inner_loop import InnerLoop, adapt
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.outer.objective import divergence
from metarl.policies.parameters import expand, flatten, unflatten
from metarl.support.errors import NonFiniteError
from metarl.support.parallel import Shard, Workers

LEARNING_RATE = 0.3


def log_density(parameters, x, actions):
    hidden = torch.tanh(x @ parameters["layer_0.weight"] + parameters["layer_0.bias"])
    mean = hidden @ parameters["layer_1.weight"] + parameters["layer_1.bias"]
    normal = torch.distributions.Normal(mean, parameters["log_std"].exp())
    return normal.log_prob(actions).sum(-1)


def plain_surrogate(parameters, batch, task):
    """mean π_θ / π_collected A over one task's valid steps, one step after the other."""
    terms = []
    for episode, time in torch.nonzero(batch.weight[task]).tolist():
        at = (task, episode, time)
        log_prob = log_density(parameters, batch.observations[at], batch.actions[at])
        terms.append(torch.exp(log_prob - batch.log_probs[at]) * batch.advantages[at])
    return torch.stack(terms).mean()


def plain_adapted(parameters, batches, task):
    """θ' of one task: θ + α ∇ Ĵ for each batch in turn, differentiable by θ."""
    for batch in batches:
        values = tuple(parameters.values())
        surrogate = plain_surrogate(parameters, batch, task)
        gradients = torch.autograd.grad(surrogate, values, create_graph=True)
        parameters = {
            name: value + LEARNING_RATE * gradient
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
        }
    return parameters


@pytest.fixture
def inner(policy):
    return InnerLoop(policy_objective(policy, lvc), LEARNING_RATE)


@pytest.fixture
def objective_of(policy, inner, theta, workers):
    """batches -> the meta-objective of rollouts that θ collected."""

    def make(batches, inner=inner, workers=workers, **options):
        adapted = inner.path(inner.begin(theta, batches[0].tasks), batches[:-1])[-1]
        return MetaObjective(policy, inner, batches, theta, adapted, workers, **options)

    return make


@pytest.mark.parametrize("chunk", [1, 3])
def test_the_agreement_is_the_cosine_between_the_gradients_of_two_halves(
    theta, make_random_batch, objective_of, chunk
):
    batches = [make_random_batch(0), make_random_batch(1)]
    objective = objective_of(batches, shard=Shard(3, chunk))
    assert objective.agreement is None
    objective.gradient(theta)
    a, b = (
        flatten(objective_of([batch[half] for batch in batches]).gradient(theta)[1])
        for half in (slice(0, 1), slice(1, 3))
    )
    assert objective.agreement == pytest.approx(float(a @ b / (a.norm() * b.norm())))
    at_start = objective.agreement
    objective.gradient({name: p + 0.1 for name, p in theta.items()})
    assert objective.agreement == at_start


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_batched_tasks_agree_with_a_plain_loop(
    inner, theta, make_random_batch, objective_of, steps
):
    *before, last = batches = [make_random_batch(i) for i in range(steps + 1)]
    leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}
    plain = [plain_adapted(leaves, before, task) for task in range(3)]
    surrogates = [plain_surrogate(p, last, task) for task, p in enumerate(plain)]
    mean = torch.stack(surrogates).mean()
    gradient = torch.autograd.grad(mean, tuple(leaves.values()))

    adapted = inner.path(expand(theta, 3), before)[-1]
    for name in theta:
        torch.testing.assert_close(adapted[name], torch.stack([p[name] for p in plain]))
    objective = objective_of(batches)
    assert objective.value(theta)[0] == pytest.approx(mean.item(), rel=1e-10)
    value, ours = objective.gradient(theta)
    assert value == pytest.approx(mean.item(), rel=1e-10)
    for name, expected in zip(theta, gradient, strict=True):
        torch.testing.assert_close(ours[name], expected)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("shift", [0.0, 0.03], ids=["at θ₀", "away from θ₀"])
def test_meta_gradient_agrees_with_finite_differences(
    inner, theta, make_random_batch, objective_of, steps, shift
):
    batches = [make_random_batch(10 + i) for i in range(steps + 1)]
    objective = objective_of(batches)
    point = {name: p + shift for name, p in theta.items()}
    numeric = central_differences(
        lambda vector: objective.value(unflatten(vector, point))[0], flatten(point)
    )
    torch.testing.assert_close(flatten(objective.gradient(point)[1]), numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2])
def test_kl_curvature_agrees_with_finite_differences(
    inner, theta, make_random_batch, objective_of, steps
):
    """Second differences of KL along two directions, at θ₀, where KL and its gradient are 0."""
    batches = [make_random_batch(20 + i) for i in range(steps + 1)]
    objective = objective_of(batches)
    product = objective.curvature(theta, divergence)
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, len(flatten(theta)), generator=generator, dtype=torch.float64)

    def kl(vector):
        return objective.value(unflatten(flatten(theta) + vector, theta))[1]

    assert kl(torch.zeros_like(u)) == pytest.approx(0, abs=1e-15)
    h = 1e-4
    numeric = (kl(h * (u + v)) - kl(h * (u - v)) - kl(h * (v - u)) + kl(-h * (u + v))) / (4 * h**2)
    exact = (u @ flatten(product(unflatten(v, theta)))).item()
    assert exact == pytest.approx(numeric, rel=1e-4)


def test_the_kl_is_from_the_old_policies_to_the_new(
    inner, policy, theta, make_random_batch, objective_of
):
    """At θ₀, where Fisher products are tested, both directions have the same curvature."""
    batches = [make_random_batch(30 + i) for i in range(2)]
    point = {name: p + 0.05 for name, p in theta.items()}
    old, new = (
        policy.distribution(
            inner.step(expand(x, batches[0].tasks), batches[0]), batches[1].observations
        )
        for x in (theta, point)
    )
    kl = objective_of(batches).value(point)[1]
    assert kl == pytest.approx(batches[1].mean(old.kl(new)).mean().item())
    assert kl != pytest.approx(batches[1].mean(new.kl(old)).mean().item())


def test_the_displacement_leads_to_the_adapted_parameters(
    inner, theta, make_random_batch, objective_of
):
    batches = [make_random_batch(30 + i) for i in range(2)]
    adapted = inner.step(expand(theta, batches[0].tasks), batches[0])
    moves = objective_of(batches).displacement()
    for name, p in theta.items():
        torch.testing.assert_close(p + moves[name], adapted[name].mean(0))


def test_later_inner_steps_are_as_much_shorter_as_the_factor_says(inner, theta, make_random_batch):
    batch, inner = make_random_batch(30), dataclasses.replace(inner, later_factor=0.5)
    first, second = (inner.step(expand(theta, batch.tasks), batch, k) for k in (0, 1))
    for name, p in theta.items():
        torch.testing.assert_close(second[name] - p, 0.5 * (first[name] - p))


def test_a_curvature_sees_all_of_few_steps(inner, theta, make_random_batch, objective_of):
    """A stride over one-step episodes would leave a tenth of them."""
    objective = objective_of([make_random_batch(30 + i) for i in range(2)])
    vector = {name: torch.ones_like(p) for name, p in theta.items()}
    strided, whole = (objective.curvature(theta, divergence, stride=s)(vector) for s in (10, 1))
    assert all(torch.equal(strided[name], whole[name]) for name in theta)


@pytest.mark.parametrize("separable", [True, False])
def test_subsampled_curvature_is_that_of_the_steps_it_sees(
    inner, theta, make_random_batch, objective_of, separable, monkeypatch
):
    monkeypatch.setattr(meta_objective, "LEAST_STEPS", 1)
    inner = dataclasses.replace(inner, separable=separable)
    first, last = (make_random_batch(30 + i) for i in range(2))
    vector = {name: torch.ones_like(p) for name, p in theta.items()}
    ours = objective_of([first, last], inner).curvature(theta, divergence, stride=2)(vector)
    seen = [first.every(2) if separable else first, last.every(2)]
    expected = objective_of(seen).curvature(theta, divergence)(vector)
    for name in theta:
        assert torch.equal(ours[name], expected[name])


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_the_sampling_correction_credits_the_returns_of_whole_episodes(
    policy, theta, make_random_batch, objective_of, reduced
):
    """A plain loop over tasks whose episodes differ in length, and advantages in deviation."""
    first, last = make_random_batch(50), make_random_batch(51)
    deviations = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    scaled = dataclasses.replace(last, rewards=last.rewards / deviations[:, None, None])
    moved = {name: p + 0.01 for name, p in theta.items()}
    plain = objective_of([first, scaled]).value(moved)[0]
    corrected = objective_of(
        [first, scaled],
        sampling_correction=True,
        correction_over_steps=reduced,
        deviations=deviations,
    ).value(moved)[0]
    episodes = last.weight.shape[1]
    returns = [last.rewards[i].sum().item() / episodes for i in range(3)]
    lengths = [last.weight[i].sum().item() / episodes for i in range(3)]
    log_probs = policy.distribution(expand(moved, 3), first.observations).log_prob(first.actions)
    expected = 0.0
    for i in range(3):
        others = [returns[j] for j in range(3) if j != i]
        gain = (returns[i] - sum(others) / 2) / (deviations[i].item() * lengths[i])
        ratios = ((log_probs - first.log_probs)[i] * first.weight[i]).sum().item()
        steps = first.weight[i].sum().item() if reduced == "mean" else 1
        expected += gain * ratios / steps / 3
    assert corrected - plain == pytest.approx(expected, rel=1e-9)


def test_threads_change_no_bit(inner, theta, make_random_batch, objective_of):
    batches = [make_random_batch(40 + i) for i in range(2)]
    one, two = Workers(1), Workers(2)
    adapted = [adapt(inner, expand(theta, 3), batches[0], 0, w) for w in (one, two)]
    gradients = [objective_of(batches, workers=w).gradient(theta)[1] for w in (one, two)]
    for a, b in (adapted, gradients):
        assert all(torch.equal(a[name], b[name]) for name in theta)


def test_adaptation_leaves_its_input_alone(inner, theta, make_random_batch, workers):
    before = {name: p.clone() for name, p in theta.items()}
    adapt(inner, expand(theta, 3), make_random_batch(0), 0, workers)
    assert all(torch.equal(before[name], theta[name]) for name in theta)
    assert not any(p.requires_grad for p in theta.values())


def central_differences(function, vector, step=1e-6):
    rows = []
    for k in range(len(vector)):
        shift = torch.zeros_like(vector)
        shift[k] = step
        rows.append((function(vector + shift) - function(vector - shift)) / (2 * step))
    return torch.tensor(rows, dtype=vector.dtype)


@pytest.mark.parametrize("correction", [False, True])
def test_a_dropped_task_has_no_part_in_the_objective(
    theta, make_random_batch, objective_of, correction
):
    """Gradient, value, curvature and displacement are those of the other two tasks alone."""
    batches = [make_random_batch(0), make_random_batch(1)]
    blank = [batch.without([1]) for batch in batches]
    kept = [torch.tensor([0, 2])] * 2
    others = [
        dataclasses.replace(
            batch, **{f.name: getattr(batch, f.name)[i] for f in dataclasses.fields(batch)}
        )
        for batch, i in zip(batches, kept, strict=True)
    ]
    options = {"sampling_correction": correction}
    ours = objective_of(blank, shard=Shard(3, 1), dropped={1}, **options)
    theirs = objective_of(others, shard=Shard(2, 1), **options)
    moved = {name: p + 0.01 for name, p in theta.items()}
    assert ours.value(moved) == pytest.approx(theirs.value(moved), rel=1e-12)
    direction = {name: torch.ones_like(p) for name, p in theta.items()}
    for mine, other in (
        (ours.gradient(moved)[1], theirs.gradient(moved)[1]),
        (ours.displacement(), theirs.displacement()),
        (
            ours.curvature(theta, divergence)(direction),
            theirs.curvature(theta, divergence)(direction),
        ),
    ):
        torch.testing.assert_close(flatten(mine), flatten(other), rtol=1e-12, atol=1e-15)


def test_the_task_whose_gradient_is_not_finite_is_named(theta, make_random_batch, objective_of):
    batches = [make_random_batch(0), make_random_batch(1)]
    batches[1].advantages[1, 0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="the meta-gradient is not finite") as error:
        objective_of(batches, shard=Shard(3, 3)).gradient(theta)
    assert error.value.tasks == (1,)
