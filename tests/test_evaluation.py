import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rliable import library, metrics

from metarl import Config, Learner, RL2Config, RL2Learner
from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.statistics import (
    STATISTICS,
    interquartile_mean,
    interval,
    stratified_indices,
)
from metarl.tasks.task import select_tasks


def evaluation(returns, seed=0):
    return Evaluation("test", {}, np.asarray(returns), seed)


def test_the_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -100])) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean(np.array([1.0, 2.0])) == 1.5


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.randoms())
def test_the_interquartile_mean_lies_within_and_knows_no_order(values, random):
    mean = interquartile_mean(np.array(values))
    assert min(values) - 1e-6 <= mean <= max(values) + 1e-6
    random.shuffle(values)
    assert interquartile_mean(np.array(values)) == pytest.approx(mean)


def test_the_interval_is_that_of_the_mean_over_tasks():
    """For many tasks, mean ± 1.96 σ/√n."""
    returns = np.random.default_rng(1).normal(10, 3, (2, 400))
    metrics = evaluation(returns).metrics()
    for k in range(2):
        half = 1.96 * returns[k].std() / 20
        mean = returns[k].mean()
        assert metrics[f"test/step_{k}/mean"] == pytest.approx(mean)
        assert metrics[f"test/step_{k}/low"] == pytest.approx(mean - half, abs=0.15 * half)
        assert metrics[f"test/step_{k}/high"] == pytest.approx(mean + half, abs=0.15 * half)


def test_one_task_has_an_interval_of_no_width():
    metrics = evaluation([[2.5]]).metrics()
    assert metrics["test/step_0/low"] == metrics["test/step_0/high"] == 2.5


RLIABLE = {
    "tail": lambda scores: np.sort(scores.reshape(-1))[: scores.size // 10].mean(),
    "mean": metrics.aggregate_mean,
    "median": lambda scores: np.median(scores),
    "iqm": metrics.aggregate_iqm,
}


@pytest.mark.parametrize("name", STATISTICS)
def test_intervals_are_those_of_rliable(name):
    """Its runs, drawn within each of its tasks, are our tasks, drawn within each run."""
    seeds, tasks, samples = 3, 40, 20_000
    scores = np.random.default_rng(2).gamma(2, 10, (tasks, seeds)) + np.array([0, 30, 60])
    values = scores.T.reshape(-1)
    np.random.seed(0)
    points, intervals = library.get_interval_estimates(
        {"ours": scores}, lambda x: np.array([RLIABLE[name](x)]), reps=samples
    )
    statistic = STATISTICS[name]
    resampled = stratified_indices(np.random.default_rng(0), seeds, tasks, samples)
    assert statistic(values) == pytest.approx(points["ours"][0])
    width = np.ptp(intervals["ours"])
    ends = interval(values, statistic, resampled)
    # A median jumps from one value to the next.
    np.testing.assert_allclose(ends, intervals["ours"][:, 0], atol=0.08 * width)


def test_runs_that_differ_do_not_widen_the_interval():
    """Each bootstrap sample has as many tasks of each run as there are."""
    rng = np.random.default_rng(3)
    near = [evaluation(rng.normal(0, 1, (1, 30))) for _ in range(3)]
    far = [evaluation(e.returns + 100 * i) for i, e in enumerate(near)]

    def width(evaluations):
        returns = np.concatenate([e.returns for e in evaluations], axis=1)
        m = Evaluation("test", {}, returns, runs=len(evaluations)).metrics()
        return m["test/step_0/high"] - m["test/step_0/low"]

    assert width(far) == pytest.approx(width(near))
    mixed = evaluation(np.concatenate([e.returns for e in far], axis=1)).metrics()
    assert mixed["test/step_0/high"] - mixed["test/step_0/low"] > 10 * width(far)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """2,000 draws of 3 runs with 40 tasks each, of runs that differ and tasks that are skewed."""
    rng = np.random.default_rng(4)
    offsets = np.array([0.0, 5.0, -3.0]).repeat(40)
    resampled = stratified_indices(rng, 3, 40, 1000)
    covered = 0
    for _ in range(2000):
        values = offsets + rng.gamma(4, 1, 120)
        low, high = interval(values, STATISTICS["mean"], resampled)
        covered += low <= offsets.mean() + 4 <= high
    assert 0.93 <= covered / 2000 <= 0.97


def test_a_summary_by_hand():
    tasks = {"goal": np.array([[0.0, 1.0], [2.0, 3.0]])}
    steps = np.array([0.0, 15.0])
    success = np.array([[0.0, 0.5], [1.0, 1.0]])
    returns = np.array([[1.0, 5.0], [3.0, 4.0]])
    data = Evaluation(
        "test", tasks, returns, episodes=3, env_steps=steps, success=success
    ).summary()
    before, after = data["steps"]
    assert (before["episodes"], after["episodes"]) == (0, 3)
    assert after["env_steps"] == 15
    assert (before["hurt"], after["hurt"]) == (0, 0.5)
    assert after["gain"] == {"value": 0.5, "low": -1, "high": 2}
    assert before["gain"] == {"value": 0, "low": 0, "high": 0}
    assert after["success"] == 1
    assert after["mean"]["value"] == after["median"]["value"] == after["iqm"]["value"] == 3.5
    assert 3 <= after["mean"]["low"] <= after["mean"]["high"] <= 4
    assert data["tasks"][1] == {
        "task": {"goal": [2.0, 3.0]},
        "returns": [5.0, 4.0],
        "success": [0.5, 1.0],
    }


def test_metrics_do_not_change_when_they_are_asked_for_again():
    one = evaluation(np.random.default_rng(0).normal(size=(2, 9)))
    assert one.metrics() == one.metrics()


def test_the_steps_that_a_gradient_learned_from_are_those_of_sampled_actions():
    """Episodes of the mean actions, which are shown, end at other times."""
    learner = Learner(Config("envs:HopperParams-v0", episodes=4, horizon=60))
    sampled, shown = (learner.evaluate(3, 1, mean_actions=mean) for mean in (False, True))
    assert shown.env_steps.tolist() == sampled.env_steps.tolist()
    assert shown.returns[0].tolist() != sampled.returns[0].tolist()


def test_mean_actions_are_those_of_the_exported_policy():
    learner = Learner(Config("envs:Navigation2D-v0", episodes=2, horizon=5))
    evaluation = learner.evaluate(tasks=2, steps=1, adaptations=2, mean_actions=True)
    env = learner.family.make()
    for i in range(2):
        task = select_tasks(evaluation.tasks, i)
        policy = learner.adapt(task, steps=0).policy
        env.unwrapped.task = task
        observation, _ = env.reset()
        total = 0.0
        for _ in range(5):
            action = policy(torch.from_numpy(observation).float()).detach().numpy()
            observation, reward, *_ = env.step(action)
            total += reward
        assert evaluation.returns[0, i] == pytest.approx(total, abs=1e-4)
    first, second = evaluation.adaptations.transpose(2, 0, 1)
    assert np.array_equal(first[0], second[0])  # the initial policy without noise
    assert not np.array_equal(first[1], second[1])  # adapted to other samples


def test_a_trial_with_mean_actions_has_no_noise():
    learner = RL2Learner(RL2Config("envs:Navigation2D-v0", trials=4, episodes=2, horizon=5))
    evaluation = learner.evaluate(tasks=3, steps=1, adaptations=2, mean_actions=True)
    first, second = evaluation.adaptations.transpose(2, 0, 1)
    assert np.array_equal(first, second)
    sampled = learner.evaluate(tasks=3, steps=1, adaptations=2)
    assert not np.array_equal(*sampled.adaptations.transpose(2, 0, 1))
