"""Meta-World's benchmarks as families; runs where Meta-World is installed."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from metarl.learners.maml_config import MAMLConfig
from metarl.learners.registry import make_learner
from metarl.simulation.checker import check_family
from metarl.simulation.checks import CHECKS
from metarl.support.errors import UsageError
from metarl.support.randomness import RandomKey
from metarl.tasks.family import make_family

metaworld = pytest.importorskip("metaworld", reason="Meta-World is not installed here")


def test_ml1_tests_on_other_goals_of_the_same_environment():
    family = make_family("envs.metaworld:ML1-v0", environment="push-v3")
    base = family.prototype.unwrapped
    assert base.names == ["push-v3"]
    train, test = (family.sample_tasks(300, RandomKey(0), split) for split in ("train", "test"))
    assert set(train["variation"]) == set(range(50))
    assert set(test["variation"]) == set(range(50, 100))
    own = metaworld.ML1("push-v3", seed=0)
    _, variations = base._loaded["push-v3"]
    assert [v.data for v in variations] == [t.data for t in own.train_tasks + own.test_tasks]


def test_ml10_has_the_official_environments():
    family = make_family("envs.metaworld:ML10-v0")
    own = metaworld.ML10(seed=0)
    names = family.prototype.unwrapped.names
    assert names == [*own.train_classes, *own.test_classes]
    assert len(names) == 15
    for split, expected in (("train", range(10)), ("test", range(10, 15))):
        assert set(family.sample_tasks(300, RandomKey(0), split)["environment"]) == set(expected)


def test_an_evaluation_has_forty_goals_of_each_test_environment():
    """The protocol of Meta-World+ (arXiv 2505.11289): 200 tasks of ML10."""
    tasks = make_family("envs.metaworld:ML10-v0").sample_tasks(200, RandomKey(0), "test")
    for environment in range(10, 15):
        goals = tasks["variation"][tasks["environment"] == environment]
        assert len(set(goals)) == len(goals) == 40


def test_a_meta_batch_has_each_environment_equally_often():
    family = make_family("envs.metaworld:ML10-v0")
    drawn = [family.sample_tasks(20, RandomKey(0, iteration=i)) for i in (1, 2)]
    for tasks in drawn:
        np.testing.assert_array_equal(tasks["environment"], np.tile(np.arange(10), 2))
    assert (drawn[0]["variation"] != drawn[1]["variation"]).any()
    few = [set(family.sample_tasks(3, RandomKey(i))["environment"].tolist()) for i in range(40)]
    assert all(len(names) == 3 for names in few)
    assert set.union(*few) == set(range(10))


def test_success_is_that_of_meta_worlds_own_evaluation():
    """A hand that moves to one place: the goals that it reaches, and the rate."""
    from metaworld import evaluation, make_ml_envs_test

    place, gain = np.array([0.0, 0.85, 0.175]), 10.0
    config = MAMLConfig("envs.metaworld:ML1-v0", hidden_sizes=(), episodes=1, device="cpu",
                        family_options={"environment": "reach-v3"})  # fmt: skip
    learner = make_learner(config)
    weights = learner.parameters["layer_0.weight"]
    weights.zero_()[range(3), range(3)] = -gain
    learner.parameters["layer_0.bias"][:3] = torch.from_numpy(gain * place)
    own = learner.evaluate(50, 0, adaptations=1, mean_actions=True)
    learner.close()

    class Hand:
        def eval_action(self, observations):
            moves = np.clip(gain * (place - observations[:, :3]), -1, 1)
            return np.pad(moves, ((0, 0), (0, 1))).astype(np.float32)

        def reset(self, mask):
            pass

    arms = make_ml_envs_test("reach-v3", seed=0, meta_batch_size=50)
    arms.call("sample_tasks")
    # One at a time: of several, it counts the first episodes to end, and success ends an episode.
    mode = AutoresetMode.SAME_STEP
    alone = [SyncVectorEnv([lambda arm=arm: arm], autoreset_mode=mode) for arm in arms.envs]
    rates = [evaluation.evaluation(Hand(), arm, num_episodes=1)[0] for arm in alone]
    assert 0 < np.mean(rates) < 1, "it shows little"
    assert own.success.mean() == pytest.approx(np.mean(rates))


@pytest.mark.filterwarnings("ignore:Constant")  # of the scripted policies
def test_the_goal_is_hidden_and_a_scripted_policy_reaches_it():
    """Meta-World's own policies see the goal that observations hide; success is told in info."""
    from metaworld.policies import ENV_POLICY_MAP

    family = make_family("envs.metaworld:ML10-v0")
    env, successes = family.make(), []
    for i, name in enumerate(env.unwrapped.names):
        policy, best = ENV_POLICY_MAP[name](), 0.0
        for variation in (3, 17):
            env.unwrapped.task = {"environment": i, "variation": variation}
            observation, _ = env.reset(seed=0)
            truncated = False
            while not truncated and best == 0:
                assert not observation[-3:].any(), "the goal shows"
                seeing = observation.copy()
                seeing[-3:] = env.unwrapped.current._target_pos
                action = np.clip(policy.get_action(seeing), -1, 1).astype(np.float32)
                observation, _, _, truncated, info = env.step(action)
                best = max(best, info["success"])
        successes.append(best)
    assert np.mean(successes) >= 0.9, dict(zip(env.unwrapped.names, successes, strict=True))


@pytest.mark.parametrize("name", ["ML1", "ML10"])
def test_the_check_passes(name, monkeypatch):
    monkeypatch.delitem(CHECKS, "pickles")
    for finding in check_family(make_family(f"envs.metaworld:{name}-v0", horizon=40)):
        assert finding.passed, finding


def test_an_environment_that_is_none_is_an_error():
    with pytest.raises(UsageError, match="has no environment fly-v3"):
        make_family("envs.metaworld:ML1-v0", environment="fly-v3")
