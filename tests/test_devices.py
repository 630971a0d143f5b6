"""A GPU computes what the CPU does; where there is none, the same tests run on the CPU alone."""

import copy
from dataclasses import fields, replace

import pytest
import torch

from metarl import Config, Learner
from metarl.learners.presets import ALGORITHMS
from metarl.learners.rl2 import RL2Config, RL2Learner
from metarl.maml.estimators import SURROGATES
from metarl.maml.inner_loop import InnerLoop
from metarl.maml.meta_objective import MetaObjective, policy_objective
from metarl.outer.objective import divergence
from metarl.policies.parameters import expand, flatten, unflatten
from metarl.runs.checkpoint import load_newest
from metarl.runs.run import run
from metarl.sampling.data import Batch

SMALL = {
    "family": "envs:HalfCheetahDir-v0",
    "iterations": 2,
    "meta_batch_size": 4,
    "episodes": 3,
    "horizon": 20,
    "hidden_sizes": (8,),
    "eval_every": 1,
    "eval_tasks": 4,
}
SMALL_RL2 = RL2Config(
    "envs:CartPoleParams-v0", trials=6, episodes=3, horizon=15, hidden_size=8, minibatches=2
)


def change(before, after):
    """How far parameters moved, as one vector on the CPU."""
    return torch.cat([(after[n].cpu() - before[n].cpu()).flatten() for n in before])


def assert_moved_alike(ours, theirs, initial, tolerance):
    mine, other = change(initial, ours), change(initial, theirs)
    assert mine.norm() > 0
    assert (mine - other).norm() <= tolerance * mine.norm()


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_meta_gradient_and_curvature_are_those_of_the_cpu_in_double_precision(
    policy, theta, make_random_batch, workers, surrogate, device
):
    batches = [make_random_batch(i) for i in range(3)]
    vector = torch.linspace(-1, 1, len(flatten(theta)), dtype=torch.float64)

    def derivatives(where):
        inner = InnerLoop(policy_objective(policy, SURROGATES[surrogate]), 0.3)
        there = {name: p.to(where) for name, p in theta.items()}
        moved = [Batch(*(getattr(b, f.name).to(where) for f in fields(b))) for b in batches]
        adapted = inner.path(expand(there, moved[0].tasks), moved[:-1])[-1]
        objective = MetaObjective(policy, inner, moved, there, adapted, workers)
        value, gradient = objective.gradient(there)
        product = objective.curvature(there, divergence)(unflatten(vector.to(where), there))
        assert flatten(gradient).device.type == flatten(product).device.type == where
        return value, flatten(gradient).cpu(), flatten(product).cpu()

    for ours, theirs in zip(derivatives("cpu"), derivatives(device), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_iteration_of_each_algorithm_agrees_with_the_cpu(name, device):
    one, other = (Learner(Config.of(name, **SMALL, device=where)) for where in ("cpu", device))
    initial = {n: p.clone() for n, p in one.parameters.items()}
    ours, theirs = one.iterate(), other.iterate()
    assert {p.device.type for p in other.parameters.values()} == {device}
    assert set(ours) == set(theirs)
    assert theirs["return/before"] == ours["return/before"]
    assert theirs["return/after"] == pytest.approx(ours["return/after"], rel=1e-2, abs=1e-2)
    assert_moved_alike(one.parameters, other.parameters, initial, 0.05)


def test_a_policy_acts_on_a_device_as_on_the_cpu(device):
    one, other = (Learner(Config(**SMALL, sampling_device=where)) for where in ("cpu", device))
    ours, theirs = one.evaluate(), other.evaluate()
    assert theirs.returns == pytest.approx(ours.returns, rel=1e-2, abs=1e-2)


def test_a_run_goes_on_and_adapts_on_another_device(tmp_path, device):
    """A checkpoint of one device is one of every device, with the moments of Adam in it."""
    run(Learner(Config.of("promp", **SMALL, device=device, run_dir=tmp_path)))
    state = load_newest(tmp_path / "checkpoints")

    def continued(where):
        learner = Learner(Config.of("promp", **SMALL, device=where))
        learner.load_state(copy.deepcopy(state))
        adapted = learner.adapt({"direction": 1.0}).parameters
        learner.iterate()
        return adapted, learner.parameters

    for ours, theirs in zip(continued("cpu"), continued(device), strict=True):
        assert_moved_alike(ours, theirs, state["parameters"], 0.05)


def test_rl2_on_a_device_agrees_with_the_cpu_and_resumes(device):
    one, other, resumed = (
        RL2Learner(replace(SMALL_RL2, device=where)) for where in ("cpu", device, device)
    )
    initial = one.state()["network"]
    ours, theirs = one.iterate(), other.iterate()
    assert theirs["return/before"] == pytest.approx(ours["return/before"], rel=0.2)
    assert {p.device.type for p in other.network.parameters()} == {device}
    resumed.load_state(other.state())
    assert resumed.iterate()["return/after"] == other.iterate()["return/after"]
    networks = [learner.state()["network"] for learner in (resumed, other)]
    assert_moved_alike(*networks, initial, 1e-3)
