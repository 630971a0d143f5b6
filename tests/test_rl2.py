"""RL²: trials against a plain loop, the update's arithmetic, resuming, and that it learns."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from metarl import UsageError
from metarl.learners import rl2
from metarl.learners.rl2 import RL2Config, RL2Learner, clipped_loss, make_experience
from metarl.policies.action_distributions import Gaussian, MultiCategorical
from metarl.policies.normalisation import Statistics
from metarl.runs.run import run
from metarl.sampling.advantage import discounted_sums
from metarl.sampling.trials import join_trials
from metarl.support.randomness import RandomKey

SMALL = RL2Config(
    "envs:CartPoleParams-v0",  # episodes end early, at different times
    iterations=3,
    trials=6,
    episodes=3,
    horizon=15,
    hidden_size=8,
    minibatches=2,
    eval_every=0,
    eval_tasks=3,
    eval_trials=2,
    device="cpu",
)


def sampled(config=SMALL, iterations=1):
    learner = RL2Learner(config)
    list(learner.learn(iterations))
    tasks = learner.family.sample_tasks(config.trials, RandomKey(5))
    return learner, join_trials(learner.sample_trials(tasks, RandomKey(5))).to(learner.device)


def experience_of(trials, discount=0.9, gae_lambda=0.8, scale=2.0):
    return make_experience(trials, scale, discount, gae_lambda)


def test_packed_trials_pass_through_the_states_of_sampling(device):
    """What the update computes over whole trials is what was computed step by step."""
    learner, trials = sampled(dataclasses.replace(SMALL, device=device))
    lengths = trials.valid.sum(1)
    assert len(set(lengths.tolist())) > 1, "no episode ended early: nothing is tested"
    with torch.no_grad():
        distribution, values, _ = learner.network(trials.inputs)
    ratios = (distribution.log_prob(trials.actions) - trials.log_probs)[trials.valid].exp()
    torch.testing.assert_close(ratios, torch.ones_like(ratios), atol=1e-5, rtol=0)
    torch.testing.assert_close(values[trials.valid], trials.values[trials.valid])


def test_a_trial_is_a_plain_loop_over_its_episodes():
    learner, trials = sampled()
    hidden = None
    for t in range(int(trials.valid[0].sum())):
        with torch.no_grad():
            step = trials.inputs[:1, t : t + 1]
            distribution, _, hidden = learner.network(step, hidden)
        log_prob = distribution.log_prob(trials.actions[:1, t : t + 1])
        assert float(log_prob) == pytest.approx(float(trials.log_probs[0, t]), abs=1e-5)


def test_inputs_hold_the_previous_step_and_mark_new_episodes():
    learner, trials = sampled()
    size = learner.network.observation_size
    for i in range(SMALL.trials):
        number = int(trials.valid[i].sum())
        inputs = trials.inputs[i, :number]
        rewards, actions, began = inputs[:, size], inputs[:, size + 1 : -3], inputs[:, -3]
        assert began.sum() == SMALL.episodes
        assert began[0] == 1
        assert not actions[0].any()
        assert rewards[0] == 0
        torch.testing.assert_close(rewards[1:].double(), trials.rewards[i, : number - 1])
        assert torch.equal(actions[1:].argmax(-1), trials.actions[i, : number - 1])
        assert float(trials.rewards[i].sum()) == pytest.approx(float(trials.returns[i].sum()))


def test_inputs_count_the_steps_of_the_episode_and_of_the_trial():
    """Also where an episode ended early."""
    learner = RL2Learner(SMALL)
    tasks = learner.family.sample_tasks(SMALL.trials, RandomKey(5))
    rollouts = learner.sample_trials(tasks, RandomKey(5))
    trials = join_trials(rollouts)
    for i in range(SMALL.trials):
        lengths = [int(rollout.valid[i].sum()) for rollout in rollouts]
        number = sum(lengths)
        of_episode = torch.cat([torch.arange(length) for length in lengths])
        steps = torch.stack([of_episode, torch.arange(number)], -1).float()
        assert torch.equal(trials.inputs[i, :number, -2:], steps)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1 - 1e-12, 1.0])
def test_a_steady_reward_is_worth_what_is_left_of_it(discount):
    """A head that always gives the value of the whole trial gives every step's value."""
    learner = RL2Learner(dataclasses.replace(SMALL, discount=discount))
    network, steps = learner.network, SMALL.horizon * SMALL.episodes
    worth = discounted_sums(torch.ones(1, steps), discount)
    with torch.no_grad():
        network.critic[-1].weight.zero_()
        network.critic[-1].bias.fill_(float(worth[0, 0]))
        inputs = torch.zeros(1, steps, network.gru.input_size + 2)
        inputs[0, :, -1] = torch.arange(steps)
        _, values, _ = network(inputs)
    torch.testing.assert_close(values, worth.float())


def test_advantages_run_across_the_episodes_of_a_trial():
    _, trials = sampled()
    discount, gae_lambda, scale = 0.9, 0.8, 2.0
    plain = []
    for i in range(SMALL.trials):
        rewards = (trials.rewards[i][trials.valid[i]] / scale).tolist()
        values = [*trials.values[i][trials.valid[i]].tolist(), 0.0]
        advantage, own = 0.0, []
        for t in reversed(range(len(rewards))):
            error = rewards[t] + discount * values[t + 1] - values[t]
            advantage = error + discount * gae_lambda * advantage
            own.append(advantage)
        plain += own[::-1]
    plain = np.array(plain)
    batch = experience_of(trials, discount, gae_lambda, scale)
    ours = batch.advantages[batch.valid].numpy()
    np.testing.assert_allclose(ours, (plain - plain.mean()) / plain.std(), rtol=1e-3, atol=1e-3)
    targets = batch.targets[batch.valid].numpy()
    np.testing.assert_allclose(targets, plain + trials.values[trials.valid].numpy(), atol=1e-5)
    assert not batch.advantages[~batch.valid].any()


def test_the_loss_at_the_start_is_that_of_the_values_alone():
    """All ratios are 1, and advantages have mean 0."""
    learner, trials = sampled()
    batch = experience_of(trials)
    loss = clipped_loss(learner.network, batch, SMALL)
    error = (trials.values - batch.targets)[batch.valid].square().sum()
    assert loss.item() == pytest.approx(float(0.25 * error), rel=1e-3, abs=1e-2)


def test_a_bonus_makes_the_loss_of_random_policies_lower():
    learner, trials = sampled()
    batch = experience_of(trials)
    plain, paid = (
        clipped_loss(learner.network, batch, dataclasses.replace(SMALL, entropy_bonus=bonus))
        for bonus in (0.0, 0.5)
    )
    distribution, _, _ = learner.network(batch.inputs)
    entropies = torch.distributions.Categorical(logits=distribution.log_probs).entropy()
    expected = -0.5 * entropies[batch.valid].sum()
    assert (paid - plain).item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_update_by_hand(monkeypatch):
    """Ratios begin at 1, also after statistics were updated; rewards have the scale of returns."""
    config = dataclasses.replace(SMALL, epochs=2)
    learner, given, log_ratios = RL2Learner(config), [], []
    make, loss = rl2.make_experience, rl2.clipped_loss
    monkeypatch.setattr(rl2, "make_experience", lambda *a: given.append(a) or make(*a))

    def watched(network, batch, config):
        distribution, _, _ = network(batch.inputs)
        log_ratio = distribution.log_prob(batch.actions) - batch.log_probs
        log_ratios.append(log_ratio[batch.valid].detach())
        return loss(network, batch, config)

    monkeypatch.setattr(rl2, "clipped_loss", watched)
    list(learner.learn(2))
    for first in (log_ratios[0], log_ratios[len(log_ratios) // 2]):
        torch.testing.assert_close(first, torch.zeros_like(first), atol=1e-5, rtol=0)
    returns = [discounted_sums(t.rewards, config.discount)[t.valid] for t, *_ in given]
    assert given[1][1] == pytest.approx(torch.cat(returns).std(correction=0).item())


def test_the_exported_policy_acts_as_the_network_after_its_trial():
    """The export is compared with the network that was trained, not with itself."""
    sizes = {"trials": 6, "episodes": 2, "horizon": 5, "hidden_size": 8, "device": "cpu"}
    learner = RL2Learner(RL2Config("envs:Navigation2D-v0", **sizes, action_scale=4.0))
    list(learner.learn(2))
    task, observation = {"goal": [0.3, -0.2]}, torch.tensor([0.1, 0.2])
    policy = learner.adapt(task, 1).policy
    trials = join_trials(learner.rollouts(task, 1)[:1])
    # The reward and the action before, a new episode, none of it over, the last 5 steps to come.
    last = (trials.rewards[0, -1:].float(), trials.actions[0, -1], torch.tensor([1.0, 0.0, 5.0]))
    with torch.no_grad():
        _, _, hidden = learner.network(trials.inputs)
        distribution, _, _ = learner.network(torch.cat([observation, *last])[None, None], hidden)
    expected = learner.units.to_environment(distribution.mode()[0, 0])
    np.testing.assert_allclose(policy(observation.numpy()), expected, rtol=1e-4, atol=1e-6)


def test_padding_is_no_infinite_ratio():
    """There log π may be far from the 0 that stands for it, with many actions and a small σ."""
    learner, trials = sampled()
    batch = experience_of(trials)
    assert not batch.valid.all()
    wild = dataclasses.replace(batch, log_probs=batch.log_probs - 200.0 * ~batch.valid)
    assert clipped_loss(learner.network, wild, SMALL).isfinite()


def test_no_more_trials_are_computed_at_once_than_are_allowed(monkeypatch):
    running, most = [0], []

    def counted(network, batch, config):
        running[0] += len(batch.valid)
        most.append(running[0])
        loss = clipped_loss(network, batch, config)
        running[0] -= len(batch.valid)
        return loss

    monkeypatch.setattr(rl2, "clipped_loss", counted)
    sizes = {"trials": 40, "episodes": 2, "horizon": 4, "minibatches": 1, "hidden_size": 8}
    RL2Learner(
        RL2Config("envs:Navigation2D-v0", task_chunk=5, threads=8, device="cpu", **sizes)
    ).iterate()
    assert max(most) <= 5


def test_the_clip_stops_what_went_far_enough():
    learner, trials = sampled()
    batch = experience_of(trials)
    far = dataclasses.replace(
        batch, log_probs=batch.log_probs - 1.0, advantages=batch.valid.float()
    )
    config = dataclasses.replace(SMALL, value_weight=0.0)
    loss = clipped_loss(learner.network, far, config)
    assert loss.item() == pytest.approx(-1.2 * float(batch.valid.sum()), rel=1e-5)
    assert not any(
        g.any()
        for g in torch.autograd.grad(
            loss, list(learner.network.parameters()), materialize_grads=True, allow_unused=True
        )
    )


def test_entropies_are_those_of_torch():
    learner, trials = sampled()
    with torch.no_grad():
        distribution, _, _ = learner.network(trials.inputs)
    expected = torch.distributions.Categorical(logits=distribution.log_probs).entropy()
    torch.testing.assert_close(distribution.entropy(), expected)
    mean, log_std = torch.randn(2, 3, 4), torch.tensor([0.3, -0.7, 0.1, 0.0])
    normal = torch.distributions.Normal(mean, log_std.exp())
    ours = Gaussian(mean, log_std.expand_as(mean)).entropy()
    torch.testing.assert_close(ours, normal.entropy().sum(-1))
    logits = torch.randn(2, 3, 2, 5).log_softmax(-1)
    several, actions = torch.distributions.Categorical(logits=logits), torch.randint(5, (2, 3, 2))
    torch.testing.assert_close(MultiCategorical(logits).entropy(), several.entropy().sum(-1))
    log_probs = MultiCategorical(logits).log_prob(actions)
    torch.testing.assert_close(log_probs, several.log_prob(actions).sum(-1))


def test_statistics_are_those_of_all_rows():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() * 5 + 2
    statistics = Statistics(3)
    assert [x.tolist() for x in statistics.moments] == [[0, 0, 0], [1, 1, 1]]
    statistics.add(rows[:20])
    statistics.add(rows[20:])
    mean, std = statistics.moments
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(std, rows.std(0, correction=0))


@pytest.mark.parametrize("family", ["envs:CartPoleParams-v0", "envs:Navigation2D-v0"])
def test_a_resumed_run_is_the_same_run(family, tmp_path):
    config = dataclasses.replace(SMALL, family=family)
    whole = RL2Learner(dataclasses.replace(config, run_dir=tmp_path / "whole"))
    run(whole)
    first = dataclasses.replace(config, run_dir=tmp_path / "parts", iterations=2)
    run(RL2Learner(first))
    second = RL2Learner(dataclasses.replace(first, iterations=3, resume=True, threads=1))
    run(second)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


@pytest.mark.parametrize("episodes", [0, 1, 2])
def test_an_adapted_policy_has_the_episodes_that_it_was_adapted_to(episodes):
    """And not the one after, by which it is judged."""
    learner, _ = sampled()
    drawn = learner.family.sample_tasks(1, RandomKey(5))
    task = {name: values[0] for name, values in drawn.items()}
    adapted = learner.adapt(task, episodes)
    hidden = torch.zeros(1, 1, SMALL.hidden_size)
    if episodes:
        trials = join_trials(learner.rollouts(task, episodes)[:episodes])
        with torch.no_grad():
            _, _, hidden = learner.network(trials.inputs)
        assert adapted.env_steps == int(trials.valid.sum())
    torch.testing.assert_close(adapted.parameters["hidden"], hidden[0, 0])


def test_the_updates_divergence_is_that_of_the_actions_taken():
    """E[ρ − 1 − log ρ] from the network after the update (Schulman 2020, k3)."""
    learner, trials = sampled()
    batch = experience_of(trials)
    metrics = learner._update(batch, RandomKey(5))
    with torch.no_grad():
        distribution, _, _ = learner.network(batch.inputs)
    log_ratio = (distribution.log_prob(batch.actions) - batch.log_probs)[batch.valid].double()
    expected = float((log_ratio.exp() - 1 - log_ratio).mean())
    assert metrics["outer/kl"] == pytest.approx(expected, rel=1e-3)
    gains = log_ratio.expm1() * batch.advantages[batch.valid]
    assert metrics["outer/surrogate"] == pytest.approx(float(gains.mean()), rel=1e-3)


THREADS = """
import hashlib, torch
from metarl import RL2Config, make_learner
for threads in (1, 2, 2):
    learner = make_learner(RL2Config("envs:HalfCheetahDir-v0", trials=8, episodes=3, horizon=20,
                                     hidden_size=16, device="cpu", threads=threads))
    list(learner.learn(3))
    state = learner.network.state_dict()
    print(hashlib.sha256(b"".join(state[n].numpy().tobytes() for n in sorted(state))).hexdigest())
"""


def test_the_number_of_threads_changes_no_bit():
    """In a process of its own: the threads of a pool take their settings when they start."""
    command = [sys.executable, "-c", THREADS]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(set(output.split())) == 1


def test_evaluation_is_of_the_same_tasks_and_changes_nothing():
    quiet, disturbed = RL2Learner(SMALL), RL2Learner(SMALL)
    list(quiet.learn(2))
    tasks = []
    for _ in disturbed.learn(2):
        evaluation = disturbed.evaluate()
        assert evaluation.returns.shape == (3, 3)
        tasks.append(evaluation.tasks)
    assert all(np.array_equal(tasks[0][name], tasks[1][name]) for name in tasks[0])
    for name, value in quiet.network.state_dict().items():
        assert torch.equal(value, disturbed.network.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "--trials 0 must be a number of at least 1"),
        ({"discount": 1.5}, r"--discount 1\.5 must be a number of at least 0 and at most 1"),
        ({"clip": 0.0}, "--clip 0.0 must be a number above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan must be a number above 0"),
        ({"minibatches": 7}, "--minibatches 7 must be at most --trials 6"),
        ({"device": "tpu"}, "--device tpu must be one of"),
    ],
)
def test_a_wrong_option_is_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(SMALL, **options)


@pytest.mark.learning
def test_it_learns_to_explore_a_bandit():
    """Ten pulls of five arms: the first pays .5 whatever is done, the last ones more."""
    config = RL2Config(
        "envs:BernoulliBandit-v0",
        trials=100,
        episodes=10,
        hidden_size=32,
        learning_rate=3e-3,
        threads=1,
        device="cpu",
    )
    learner = RL2Learner(config)
    list(learner.learn(40))
    returns = learner.evaluate(400).returns.mean(1)
    assert returns[0] == pytest.approx(0.5, abs=0.05)
    assert returns[-3:].mean() > 0.55
