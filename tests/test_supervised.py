"""The inner loop on any module: against closed forms, plain loops and finite differences."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import python
from torch import nn

from envs.classification import (
    GraphNet,
    GraphProperties,
    digits,
    graph_properties,
    photographs,
)
from envs.sinusoid import Sinusoid
from metarl import UsageError
from metarl.learners.few_shot import FewShotConfig, FewShotLearner
from metarl.maml.inner_loop import InnerLoop
from metarl.maml.supervised import (
    FewShotObjective,
    module_objective,
    query_outputs,
)
from metarl.policies.module_network import initial_parameters
from metarl.policies.parameters import flatten, unflatten
from metarl.runs.run import run
from metarl.support.errors import NonFiniteError
from metarl.support.parallel import Workers
from metarl.tasks.classification import FewShotClassification, convolutional_net
from metarl.tasks.samples import Samples

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TASKS, RATE = 3, 0.1


class Recurrent(nn.Module):
    """Reads a sequence [n, time, 2] with an LSTM, and predicts one number."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        states, _ = self.lstm(x)
        return self.head(states[:, -1])


def mlp():
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def small_convolutional_net():
    return convolutional_net(3, 2)[0]


KINDS = {
    "mlp": (mlp, (2,), 1, nn.functional.mse_loss),
    "convolutional": (small_convolutional_net, (1, 8, 8), 3, nn.functional.cross_entropy),
    "recurrent": (Recurrent, (4, 2), 1, nn.functional.mse_loss),
    "graph": (lambda: GraphNet(3), (5, 5), 2, nn.functional.cross_entropy),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def problem(request):
    make, shape, outputs, loss = KINDS[request.param]
    torch.manual_seed(0)
    module = make().double()

    def samples(number):
        x = torch.randn(TASKS, number, *shape, dtype=torch.float64)
        if loss is nn.functional.mse_loss:
            return Samples(x, torch.randn(TASKS, number, outputs, dtype=torch.float64))
        return Samples(x, torch.randint(outputs, (TASKS, number)))

    return module, loss, samples(4), samples(6)


def plainly_adapted(module, loss, support, task, steps):
    """A copy of the module after steps of gradient descent written out with torch's own tools."""
    own = copy.deepcopy(module)
    for _ in range(steps):
        value = loss(own(support.inputs[task]), support.targets[task])
        for p, g in zip(
            own.parameters(), torch.autograd.grad(value, own.parameters()), strict=True
        ):
            p.data -= RATE * g
    return own


def test_all_tasks_at_once_agree_with_a_plain_loop(problem):
    module, loss, support, query = problem
    inner = InnerLoop(module_objective(module, loss), RATE)
    theta = initial_parameters(module)
    outputs = query_outputs(inner, module, theta, support, query, 2)
    for steps in range(3):
        for task in range(TASKS):
            own = plainly_adapted(module, loss, support, task, steps)
            torch.testing.assert_close(outputs[steps][task], own(query.inputs[task]))


@pytest.mark.parametrize("first_order", [False, True])
def test_the_meta_gradient_agrees_with_the_truth(problem, first_order):
    """Finite differences; at first order the mean gradient of the adapted copies."""
    module, loss, support, query = problem
    inner = InnerLoop(module_objective(module, loss), RATE, first_order=first_order)
    theta = initial_parameters(module)
    objective = FewShotObjective(inner, support, query, 2, theta, Workers(2))
    value, gradient = objective.gradient(theta)
    assert objective.value(theta)[0] == pytest.approx(value)
    vector, h = flatten(theta), 1e-6
    if first_order:
        total = torch.zeros_like(vector)
        for task in range(TASKS):
            own = plainly_adapted(module, loss, support, task, 2)
            after = loss(own(query.inputs[task]), query.targets[task])
            parts = torch.autograd.grad(after, own.parameters())
            total -= torch.cat([part.flatten() for part in parts]) / TASKS
        expected = total
    else:
        generator = np.random.default_rng(0)
        chosen = generator.choice(len(vector), min(20, len(vector)), replace=False)
        units = torch.eye(len(vector), dtype=torch.float64)[chosen]
        expected = torch.tensor(
            [
                (
                    objective.value(unflatten(vector + h * unit, theta))[0]
                    - objective.value(unflatten(vector - h * unit, theta))[0]
                )
                / (2 * h)
                for unit in units
            ],
            dtype=torch.float64,
        )
        gradient = {"chosen": flatten(gradient)[torch.from_numpy(chosen)]}
    torch.testing.assert_close(flatten(gradient), expected, rtol=1e-5, atol=1e-8)


def test_linear_regression_has_its_closed_form():
    """θ' = θ − 2α/n Xᵀ(Xθ − y); the meta-gradient goes back through I − 2α/n XᵀX."""
    torch.manual_seed(1)
    module = nn.Linear(3, 1, bias=False).double()
    x, y, u, v = (torch.randn(1, 5, k, dtype=torch.float64) for k in (3, 1, 3, 1))
    inner = InnerLoop(module_objective(module, nn.functional.mse_loss), RATE)
    theta = initial_parameters(module)
    objective = FewShotObjective(inner, Samples(x, y), Samples(u, v), 1, theta, Workers(1))
    w = theta["weight"].T
    adapted = w - 2 * RATE / 5 * x[0].T @ (x[0] @ w - y[0])
    jacobian = torch.eye(3, dtype=torch.float64) - 2 * RATE / 5 * x[0].T @ x[0]
    expected = -jacobian @ (2 / 5 * u[0].T @ (u[0] @ adapted - v[0]))
    value, gradient = objective.gradient(theta)
    assert value == pytest.approx(-(u[0] @ adapted - v[0]).square().mean().item())
    torch.testing.assert_close(gradient["weight"].T, expected)
    torch.testing.assert_close(objective.displacement()["weight"].T, adapted - w)


def small(path, **changes):
    options = {"iterations": 4, "meta_batch_size": 4, "test_steps": 2, "eval_tasks": 6}
    return FewShotConfig(run_dir=path, eval_every=2, checkpoint_every=2, **(options | changes))


def make_learner(config):
    torch.manual_seed(0)
    return FewShotLearner(config, Sinusoid(shots=5, hidden=8))


@pytest.mark.parametrize(
    "options", [{}, {"outer": "reptile"}, {"step_sizes": "per_parameter"}, {"adapts": "head"}]
)
def test_a_supervised_run_is_recorded_and_resumes_bit_for_bit(tmp_path, options):
    whole = make_learner(small(tmp_path / "whole", **options))
    run(whole)
    run(make_learner(small(tmp_path / "parts", **options, **{"iterations": 2})))
    resumed = make_learner(small(tmp_path / "parts", **options, resume=True))
    run(resumed)
    for name, value in whole.parameters.items():
        assert torch.equal(value, resumed.parameters[name])
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert len(lines) == 4
    assert {"mse/before", "mse/after", "test/step_2/mean", "test/step_2/low"} < set(last)
    assert ("inner/step_size" in last) == ("step_sizes" in options)


def test_a_few_shot_run_on_a_device_agrees_with_the_cpu_and_resumes(tmp_path, device):
    one, other = (make_learner(small(tmp_path, device=name)) for name in ("cpu", device))
    ours, theirs = ([learner.iterate() for _ in range(2)] for learner in (one, other))
    assert theirs[1]["mse/after"] == pytest.approx(ours[1]["mse/after"], rel=1e-3)
    resumed = make_learner(small(tmp_path, device=device))
    resumed.load_state(copy.deepcopy(other.state()))  # the moments are changed in place
    assert resumed.iterate()["mse/after"] == pytest.approx(other.iterate()["mse/after"], rel=1e-5)
    for name, value in other.parameters.items():
        assert value.device.type == device
        torch.testing.assert_close(resumed.parameters[name], value)


def test_plain_fine_tuning_takes_the_best_step_size_and_changes_nothing(tmp_path):
    learner = make_learner(small(tmp_path, step_sizes="per_parameter", test_steps=5, eval_tasks=50))
    before = {name: p.clone() for name, p in learner.parameters.items()}
    evaluation, rate = learner.fine_tune((1e-9, 0.01, 100.0), best=min)
    assert rate == 0.01
    with pytest.raises(NonFiniteError, match=r"diverges, with 1e\+06"):
        learner.fine_tune((1e6, 1e9), best=min)
    assert evaluation.returns[-1].mean() < evaluation.returns[0].mean()
    for name, p in learner.parameters.items():
        assert torch.equal(p, before[name])


class Lines:
    """y = a x with a = 1, 2, ... of the tasks: support sets at x = 1, query sets at x = 2."""

    name, measure, head, groups, higher_is_better = "lines", "mse", (), (), False
    loss = staticmethod(nn.functional.mse_loss)

    def __init__(self):
        self.module = nn.Linear(1, 1, bias=False)
        self.module.weight.data.zero_()

    def sample(self, number, generator, split):
        one, a = torch.ones(number, 1, 1), torch.arange(1.0, number + 1).reshape(-1, 1, 1)
        return Samples(one, a), Samples(2 * one, 2 * a)

    def score(self, outputs, targets):
        return (outputs - targets).square().mean((1, 2))


def test_scores_are_of_query_sets_after_steps_on_support_sets():
    """w = 0 − ¼ · 2 (0 − a) = a / 2: the error at x = 2 is (2a)² before the step, a² after it."""
    config = FewShotConfig(inner_lr=0.25, meta_batch_size=3, device="cpu")
    learner = FewShotLearner(config, Lines())
    np.testing.assert_allclose(learner.evaluate(3, 1).returns, [[4, 16, 36], [1, 4, 9]])
    metrics = learner.iterate()
    assert metrics["mse/before"] == pytest.approx(56 / 3)
    assert metrics["mse/after"] == pytest.approx(14 / 3)


def test_an_accuracy_does_not_hide_that_fine_tuning_diverges(tmp_path):
    problem = FewShotClassification({"digits": digits()}, *convolutional_net(3), ways=3)
    learner = FewShotLearner(small(tmp_path), problem)
    assert learner.fine_tune((0.01, 1e30))[1] == 0.01
    with pytest.raises(NonFiniteError, match=r"diverges, with 1e\+30"):
        learner.fine_tune((1e30,))


def test_classes_of_the_test_split_are_held_out():
    problem = FewShotClassification(
        {"digits": digits(), "photographs": photographs()}, *convolutional_net(3), ways=3, shots=2
    )

    def images(split):
        support, query = problem.sample(40, np.random.default_rng, split)
        assert support.inputs.shape == (40, 6, 1, 8, 8)
        assert query.inputs.shape == (40, 45, 1, 8, 8)
        assert support.targets[0].tolist() == [0, 0, 1, 1, 2, 2]
        both = torch.cat([support.inputs, query.inputs], 1)
        for task in both:
            assert len({image.numpy().tobytes() for image in task}) > 45
        return {image.numpy().tobytes() for image in both.flatten(0, 1)}

    assert not images("train") & images("test")


def test_graph_properties_by_hand():
    triangle = np.zeros((4, 4))
    triangle[:3, :3] = 1 - np.eye(3)
    path = np.diag(np.ones(3), 1) + np.diag(np.ones(3), -1)
    found = graph_properties(np.stack([triangle, path]))
    expected = {
        "edges": [3, 3],
        "largest degree": [2, 2],
        "leaves": [0, 2],
        "isolated nodes": [1, 0],
        "triangles": [1, 0],
        "clustering": [1, 0],
        "components": [2, 1],
        "spectral radius": [2, (1 + math.sqrt(5)) / 2],
        "smallest eigenvalue": [-1, -(1 + math.sqrt(5)) / 2],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_graph_tasks_have_both_kinds_in_turn():
    problem = GraphProperties(shots=3, queries=4, graphs=300)
    support, query = problem.sample(5, np.random.default_rng, "test")
    assert support.inputs.shape == (5, 6, 12, 12)
    assert support.targets[0].tolist() == [0, 1] * 3
    assert query.targets.shape == (5, 8)
    assert torch.equal(support.inputs, support.inputs.mT)


def test_groups_have_their_own_results():
    torch.manual_seed(0)
    problem = FewShotClassification(
        {"digits": digits(), "photographs": photographs()}, *convolutional_net(2), ways=2
    )
    config = FewShotConfig(meta_batch_size=4, test_steps=1)
    metrics = FewShotLearner(config, problem).evaluate(6).metrics()
    of_groups = [metrics[f"test/{g}/step_1/mean"] for g in ("digits", "photographs")]
    assert metrics["test/step_1/mean"] == pytest.approx(np.mean(of_groups))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_lr": float("nan")}, "--inner-lr nan must be a number above 0"),
        ({"meta_batch_size": 0}, "--meta-batch-size 0 must be a number of at least 1"),
        ({"seed": -1}, "--seed -1 must be a number of at least 0"),
        ({"outer": "reptile", "adapts": "head"}, "--adapts all"),
    ],
)
def test_a_wrong_option_is_an_error(options, message):
    with pytest.raises(UsageError, match=message):
        FewShotConfig(**options)


TINY = (
    *("--iterations", "2", "--meta-batch-size", "2", "--test-steps", "1"),
    *("--eval-every", "2", "--eval-tasks", "4"),
)


@pytest.mark.parametrize(
    "command",
    [
        "sinusoid.py --shots 5",
        "few_shot.py --domains digits photographs --ways 2",
        "few_shot.py --domains graphs --shots 3",
        pytest.param("fine_tune.py --adapts head --backbone-epochs 1", marks=pytest.mark.slow),
    ],
)
def test_each_experiment_runs(command, tmp_path):
    script, *options = command.split()
    result = python(EXPERIMENTS / script, *options, *TINY, "--run-dir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "iteration 2/2" in result.stdout
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "test/step_1/mean" in last


def test_a_backbone_that_does_not_fit_is_one_line(tmp_path):
    torch.save({"0.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    for name, message in (("other.pt", "does not fit"), ("nothing.pt", "cannot be read")):
        result = python(EXPERIMENTS / "fine_tune.py", "--backbone", name, *TINY, cwd=tmp_path)
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert message in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (nn.Dropout(0.5), "Dropout at 0"),
        (nn.Dropout2d(0.5), "Dropout2d at 0"),
        (nn.MultiheadAttention(4, 2, dropout=0.5), "MultiheadAttention at 0"),
        (
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            "MultiheadAttention at 0.self_attn",
        ),
    ],
)
def test_a_module_that_drops_out_is_refused_and_the_remedy_works(part, name):
    with pytest.raises(UsageError, match=f"{name} drops out"):
        module_objective(nn.Sequential(part), nn.functional.mse_loss)
    for module in part.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    module_objective(nn.Sequential(part), nn.functional.mse_loss)


def test_running_statistics_are_refused_and_the_remedy_works():
    module = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(UsageError, match="BatchNorm1d at 1 keeps running statistics"):
        module_objective(module, nn.functional.mse_loss)
    torch.func.replace_all_batch_norm_modules_(module)
    inner = InnerLoop(module_objective(module, nn.functional.mse_loss), RATE)
    samples = Samples(torch.randn(TASKS, 5, 1), torch.randn(TASKS, 5, 1))
    adapted = inner.step(inner.begin(initial_parameters(module), TASKS), samples)
    # Each task is normalised by its own batch: alone it adapts to the same.
    for i in range(TASKS):
        one = slice(i, i + 1)
        alone = inner.step(inner.begin(initial_parameters(module), 1), samples[one])
        for name, p in alone.items():
            torch.testing.assert_close(p[0], adapted[name][i])
