"""What differs from iteration to iteration and from split to split, and what is learned from."""

import copy

import numpy as np
import pytest
import torch

from metarl import Config, Learner
from metarl.evaluation.evaluation import Evaluation
from metarl.evaluation.outcomes import return_metrics
from metarl.learners.rl2 import RL2Config, RL2Learner
from metarl.sampling.data import Outcomes
from metarl.simulation.backends import make_simulation
from metarl.support.randomness import Phase, RandomKey
from metarl.tasks.family import make_family

FAMILY = "envs:HalfCheetahVel-v0"
SMALL = {"episodes": 2, "horizon": 3, "device": "cpu"}
MAML = {"meta_batch_size": 4, "hidden_sizes": (6,)}


LEARNERS = {
    "maml": lambda: Learner(Config(FAMILY, **SMALL, **MAML)),
    "es-maml": lambda: Learner(Config.of("es-maml", family=FAMILY, **SMALL, **MAML)),
    "rl2": lambda: RL2Learner(RL2Config(FAMILY, **SMALL, trials=4, hidden_size=6)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_an_iteration_has_tasks_and_noise_of_its_own(name):
    learner = LEARNERS[name]()
    drawn, acted, perturbed = [], [], []
    draw, sample = learner.task_sampler.draw, learner.sample

    def recorded(number, key):
        drawn.append(draw(number, key)["velocity"])
        return drawn[-1]

    def sampled(*arguments, **options):
        rollout = sample(*arguments, **options)
        acted.append(rollout.actions.clone())
        return rollout

    learner.task_sampler.draw = lambda number, key: {"velocity": recorded(number, key)}
    learner.sample = sampled
    for _ in range(2):
        learner.iterate()
        perturbed.append(copy.deepcopy(getattr(getattr(learner, "outer", None), "_noise", {})))
    assert not np.isin(drawn[0], drawn[1]).any()
    first, later = acted[0], acted[len(acted) // 2]
    assert not torch.isin(first, later).any()
    for name, noise in perturbed[0].items():
        assert not torch.equal(noise, perturbed[1][name])


def test_stages_have_first_states_of_their_own():
    learner, begun = Learner(Config("envs:CartPoleParams-v0", **SMALL, **MAML)), []
    (simulation,) = learner.simulations.of(4, learner.episodes)[:1]
    begin = simulation.begin
    simulation.begin = lambda tasks, streams: begun.extend(streams) or begin(tasks, streams)
    learner.iterate()
    assert len(set(begun)) == len(begun) > 0


def test_steps_of_dynamics_have_noise_of_their_own():
    number = 500
    simulation = make_simulation(make_family("envs:TabularMDP-v0", states=1, actions=1), number)
    tasks = {"transitions": np.ones((number, 1, 1, 1)), "mean": np.zeros((number, 1, 1))}
    simulation.begin(tasks, np.arange(number))
    still = torch.zeros(number, dtype=torch.int64)
    rewards = torch.stack([simulation.step(still).rewards.clone() for _ in range(2)])
    assert abs(torch.corrcoef(rewards)[0, 1]) < 0.2


def test_evaluations_draw_from_streams_of_their_own():
    learner, phases = Learner(Config(FAMILY, **SMALL, **MAML)), set()
    sample = learner.sample

    def recorded(adaptive, tasks, key, *others):
        phases.add(key.phase)
        return sample(adaptive, tasks, key, *others)

    learner.sample = recorded
    learner.evaluate(2)
    assert phases == {Phase.EVALUATION}


def test_what_normalises_stands_still_within_an_iteration():
    """Otherwise θ itself would be at a distance from the policy that acted."""
    learner, before = Learner(Config(FAMILY, **SMALL, **MAML, normalise_observations=True)), []
    step = learner.outer.step

    def recorded(objective, theta):
        before.append(objective.value(theta)[1])
        return step(objective, theta)

    learner.outer.step = recorded
    metrics = [learner.iterate() for _ in range(2)]
    assert before == pytest.approx([0, 0], abs=1e-6)
    assert float(learner.policy.normaliser.state()["count"]) == metrics[-1]["env_steps"]


def test_splits_draw_different_tasks():
    family = make_family(FAMILY)
    train, test = (family.sample_tasks(20, RandomKey(1), s)["velocity"] for s in ("train", "test"))
    assert not np.isin(train, test).any()


def test_the_choice_of_tasks_learns_from_returns_after_adaptation():
    learner, told = Learner(Config(FAMILY, **SMALL, **MAML)), []
    learn = learner.task_sampler.learn
    learner.task_sampler.learn = lambda returns: told.append(returns) or learn(returns)
    metrics = learner.iterate()
    assert float(told[0].mean()) == pytest.approx(metrics["return/after"])
    assert metrics["return/after"] != pytest.approx(metrics["return/before"])


def test_hurt_is_the_share_that_adaptation_makes_worse():
    def outcomes(returns):
        zeros = torch.zeros(4, 1)
        return Outcomes(torch.tensor(returns).unsqueeze(1), zeros, zeros.long(), 0, None)

    before, after = outcomes([0.0, 1.0, 2.0, 3.0]), outcomes([1.0, 2.0, 3.0, 2.0])
    assert return_metrics([before, after])["return/hurt"] == 0.25
    losses = np.array([[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 2.0]])
    assert Evaluation("test", {}, losses).hurt(1) == 0.25
    assert Evaluation("test", {}, losses, higher_is_better=False).hurt(1) == 0.75


def test_a_run_begins_with_what_another_normalises_by():
    normalising = {"normalise_observations": True, "normalise_rewards": True}
    one, other = (
        Learner(Config(FAMILY, **SMALL, **MAML, **normalising, seed=seed)) for seed in (1, 2)
    )
    one.iterate()
    other.initialise(one)
    device = torch.device("cpu")
    for own, theirs in zip(
        other.policy.normaliser.moments(device), one.policy.normaliser.moments(device), strict=True
    ):
        assert torch.equal(own, theirs)
    assert torch.equal(other.advantages.sums, one.advantages.sums)


def test_an_exported_policy_of_cavia_has_the_adapted_context():
    learner = Learner(Config.of("cavia", family=FAMILY, **SMALL, **MAML))
    adapted = learner.adapt({"velocity": 1.0}, 2)
    assert adapted.parameters["context"].any()
    rows = torch.randn(5, 17, generator=torch.Generator().manual_seed(0))
    parameters = {name: p.unsqueeze(0) for name, p in adapted.parameters.items()}
    mode = learner.policy.distribution(parameters, rows.unsqueeze(0)).mode()[0]
    expected = learner.units.to_environment(mode)
    torch.testing.assert_close(adapted.policy(rows), expected)


def test_rl2_makes_all_of_its_passes_and_cuts_its_gradients(monkeypatch):
    config = RL2Config(FAMILY, **SMALL, trials=4, hidden_size=6, epochs=3, minibatches=2)
    learner, cut = RL2Learner(config), []
    clip = torch.nn.utils.clip_grad_norm_

    def recorded(parameters, most):
        cut.append(most)
        return clip(parameters, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", recorded)
    learner.iterate()
    assert cut == [config.max_gradient_norm] * 3 * 2
    again = RL2Learner(config)
    again.load_state(learner.state())
    assert again.env_steps == learner.env_steps == 4 * 2 * 3
