"""Random tabular MDPs: what inner steps learn from some episodes, beside what is possible.

The MDPs have ten states, five actions and ten steps. Transitions and mean rewards are unknown (Duan
et al. 2016, arXiv 1611.02779; Deleu's pytorch-maml-rl). At the end the script prints, for the same
held-out tasks, the return after each inner step; the return of the optimal policy, which knows the
task; the return of planning in the posterior mean of the MDP, after as many episodes of random
actions as a step sees; and the return of random actions.
"""

import numpy as np

from metarl import Config, Learner
from metarl.cli.evaluate import print_evaluation
from metarl.cli.train import run_experiment


def plan(transitions: np.ndarray, means: np.ndarray, horizon: int) -> np.ndarray:
    """Optimal actions by backward induction: [horizon, tasks, s].

    Args:
        transitions: [tasks, s, a, s'].
        means: rewards [tasks, s, a].

    """
    values, actions = np.zeros(means.shape[:2]), []
    for _ in range(horizon):
        q = means + np.einsum("nsat,nt->nsa", transitions, values)
        actions.append(q.argmax(-1))
        values = q.max(-1)
    return np.stack(actions[::-1])


def value(policy: np.ndarray, transitions: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Expected return from state 0 of a policy [horizon, tasks, s], or [..., a] probabilities."""
    values = np.zeros(means.shape[:2])
    for choice in policy[::-1]:
        q = means + np.einsum("nsat,nt->nsa", transitions, values)
        values = np.take_along_axis(q, choice[..., None], -1)[..., 0]
    return values[:, 0]


def posterior_mean(
    transitions: np.ndarray, means: np.ndarray, episodes: int, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means of transitions and rewards after `episodes` of random actions."""
    generator = np.random.default_rng(0)
    tasks, states, actions = means.shape
    rows = np.arange(tasks)
    visits = np.zeros((tasks, states, actions, states))
    paid = np.zeros(means.shape)
    for _ in range(episodes):
        s = np.zeros(tasks, int)
        for _ in range(horizon):
            a = generator.integers(actions, size=tasks)
            cumulative = transitions[rows, s, a].cumsum(-1)
            after = (cumulative[:, :-1] <= generator.random((tasks, 1))).sum(-1)
            visits[rows, s, a, after] += 1
            paid[rows, s, a] += means[rows, s, a] + generator.standard_normal(tasks)
            s = after
    counts = visits.sum(-1)
    return (1 + visits) / (states + counts[..., None]), (1 + paid) / (1 + counts)


if __name__ == "__main__":
    learner = run_experiment(
        Config(family="envs:TabularMDP-v0", preset="tuned", iterations=150, eval_every=0),
        __doc__,
    )
    assert isinstance(learner, Learner)  # Config is its configuration
    evaluation = learner.evaluate(1000, steps=5)
    print_evaluation(evaluation)
    task = (evaluation.tasks["transitions"], evaluation.tasks["mean"])
    horizon, episodes = learner.family.horizon, learner.config.episodes
    believed = posterior_mean(*task, episodes, horizon)
    print(f"optimal policy: {value(plan(*task, horizon), *task).mean():.1f}")
    planned = value(plan(*believed, horizon), *task).mean()
    print(f"planned after {episodes} episodes of random actions: {planned:.1f}")
    print(f"random actions: {task[1].mean() * horizon:.1f}")
