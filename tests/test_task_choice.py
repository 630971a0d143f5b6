"""Task choice: which tasks are hard is predicted from returns, and training is on those."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from metarl import Config, Learner, RL2Config, RL2Learner, UsageError, train
from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.statistics import tail_mean
from metarl.sampling import task_choice
from metarl.sampling.task_choice import TaskChoiceOptions, TaskSampler, as_rows, predict
from metarl.support.randomness import RandomKey
from metarl.tasks.family import make_family

pytestmark = pytest.mark.usefixtures("no_figures")

FAMILY = make_family("envs:Navigation2D-v0")
HARD = TaskChoiceOptions(task_choice="hard", task_tail=0.25, hard_share=0.8)
SMALL = Config(
    family="envs:Navigation2D-v0",
    iterations=4,
    meta_batch_size=5,
    episodes=2,
    horizon=6,
    hidden_sizes=(8,),
    eval_every=4,
    eval_tasks=5,
    checkpoint_every=1,
    task_choice="hard",
    device="cpu",
)


def distances(tasks):
    """From the origin, of goals: far goals are the hard ones here."""
    return as_rows(tasks).norm(dim=1)


def taught(iterations=6, number=20):
    sampler = TaskSampler(FAMILY, HARD)
    for i in range(iterations):
        metrics = sampler.learn(-distances(sampler.draw(number, RandomKey(1, iteration=i))))
    return sampler, metrics


def test_the_prediction_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    x, at = generator.normal(size=(40, 2)), generator.normal(size=(15, 2))
    y = 7 + 3 * np.sin(2 * x[:, 0]) + 0.3 * generator.normal(size=40)
    mean, deviation = predict(*map(torch.from_numpy, (x, y, at)))

    def peer(length, noise):
        kernel = RBF(length * np.sqrt(2))
        return GaussianProcessRegressor(kernel, alpha=noise, optimizer=None, normalize_y=True)

    peers = [peer(a, b).fit(x, y) for a in task_choice.LENGTHS for b in task_choice.NOISES]
    best = max(peers, key=lambda fitted: fitted.log_marginal_likelihood_value_)
    expected, std = best.predict(at, return_std=True)
    np.testing.assert_allclose(mean, expected)
    np.testing.assert_allclose(deviation, std, atol=1e-7)


def test_hard_tasks_are_those_with_low_returns():
    """A share of them lies in the hardest quarter of the tasks, but for what is not known."""
    sampler, metrics = taught()
    chosen = distances(sampler.draw(20, RandomKey(1, iteration=9)))
    every = distances(FAMILY.sample_tasks(500, RandomKey(2)))
    quarter = every.quantile(0.75)
    assert (chosen[4:] > 0.95 * quarter).float().mean() > 0.9
    assert (chosen[:4] == distances(FAMILY.sample_tasks(4, RandomKey(1, iteration=9)))).all()
    assert metrics["tasks/predicted"] > 0.95


def test_tasks_are_those_of_the_family_before_anything_is_known_and_without_a_choice():
    own = FAMILY.sample_tasks(7, RandomKey(3))
    for options in (HARD, TaskChoiceOptions()):
        drawn = TaskSampler(FAMILY, options).draw(7, RandomKey(3))
        np.testing.assert_array_equal(drawn["goal"], own["goal"])
    assert TaskSampler(FAMILY, TaskChoiceOptions()).learn(torch.zeros(7)) == {}


def test_what_was_learned_is_in_the_state():
    sampler, _ = taught()
    other = TaskSampler(FAMILY, HARD)
    other.load_state(sampler.state())
    drawn = [s.draw(20, RandomKey(1, iteration=9))["goal"] for s in (sampler, other)]
    np.testing.assert_array_equal(*drawn)


def test_tasks_that_occur_several_times_count_once():
    """As evolution strategies repeat them, one whole set after the other."""
    one, other = TaskSampler(FAMILY, HARD), TaskSampler(FAMILY, HARD)
    for sampler in (one, other):
        sampler.draw(3, RandomKey(1))
    one.learn(torch.tensor([1.0, 2.0, 3.0, 3.0, 2.0, 1.0]))
    other.learn(torch.tensor([2.0, 2.0, 2.0]))
    assert torch.equal(one.state()["returns"], other.state()["returns"])


def test_families_of_few_tasks_can_be_chosen_from():
    family = make_family("envs:HalfCheetahDir-v0")
    sampler = TaskSampler(family, HARD)
    for i in range(3):
        drawn = sampler.draw(10, RandomKey(1, iteration=i))
        sampler.learn(torch.from_numpy(drawn["direction"]).double())  # backwards is hard
    assert (drawn["direction"][2:] == -1).all()


@pytest.mark.parametrize("algorithm", ["maml-pg", "es-maml"])
def test_a_resumed_run_with_one_thread_is_the_same_run(tmp_path, algorithm):
    options = {n: v for n, v in SMALL.given.items() if n not in ("outer", "estimator", "outer_lr")}
    config = Config.of(**options | {"algorithm": algorithm, "meta_batch_size": 6})
    whole = train(dataclasses.replace(config, run_dir=tmp_path / "whole", threads=2))
    first = dataclasses.replace(config, run_dir=tmp_path / "run", iterations=2, threads=1)
    train(first)
    resumed = train(dataclasses.replace(first, iterations=4, resume=True))
    for name, value in whole.parameters.items():
        assert torch.equal(value, resumed.parameters[name])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert -1 <= json.loads(lines[-1])["tasks/predicted"] <= 1
    assert "test/step_1/tail" in json.loads(lines[-1])


def test_rl2_chooses_its_tasks_too():
    options = {"trials": 6, "episodes": 2, "horizon": 6, "minibatches": 2, "device": "cpu"}
    learner = RL2Learner(RL2Config("envs:Navigation2D-v0", task_choice="hard", **options))
    metrics = list(learner.learn(2))
    assert "tasks/predicted" not in metrics[0]
    assert "tasks/predicted" in metrics[1]
    other = RL2Learner(learner.config)
    other.load_state(learner.state())
    assert other.iterate()["return/before"] == learner.iterate()["return/before"]


def test_a_checkpoint_of_an_earlier_version_can_be_loaded():
    learner = Learner(SMALL)
    state = learner.state()
    del state["tasks"]
    learner.load_state(state)


def test_a_tail_must_be_a_share():
    with pytest.raises(UsageError, match="--task-tail 0 must be a number above 0 and at most 1"):
        Config(family="x", task_tail=0)


def test_the_worst_tenth_by_hand():
    assert tail_mean(np.array([5.0, 3.0])) == 3
    assert tail_mean(np.arange(20.0)) == 0.5
    returns = np.array([np.arange(20.0), np.arange(20.0) + 1])
    data = Evaluation("test", {}, returns).summary()
    assert data["steps"][1]["tail"]["value"] == 1.5
    assert data["steps"][1]["tail"]["low"] >= 1
    assert Evaluation("test", {}, returns).metrics()["test/step_1/tail"] == 1.5
    losses = Evaluation("test", {}, returns, higher_is_better=False)
    assert losses.metrics()["test/step_1/tail"] == 19.5
    tail = losses.summary()["steps"][1]["tail"]
    assert tail["value"] == 19.5
    assert tail["low"] <= 19.5 <= tail["high"]
