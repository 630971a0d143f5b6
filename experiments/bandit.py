"""Bernoulli bandit: what an inner step learns from a few pulls, beside the best that is possible.

There are five arms that pay with unknown probabilities, uniform over [0, 1]. The sizes are those of
Deleu's pytorch-maml-rl. A step gains more from more pulls: `--episodes 100`. At the end the script
prints, for held-out tasks, the return of a pull after adaptation, the return of the best arm, and
the return of the arm with the best record after the same number of pulls, spread evenly over the
arms. No strategy that chooses its pulls beforehand does better than the last one.
"""

import numpy as np

from metarl import Config, Learner
from metarl.cli.evaluate import print_evaluation
from metarl.cli.train import run_experiment


def best_posterior_mean(arms: int, pulls: int) -> float:
    """Expected reward of the arm with the best record after `pulls` of each arm.

    With a uniform prior, the number of successes of an arm is uniform over 0 to `pulls`, and with s
    successes its expected probability is (s + 1) / (pulls + 2).
    """
    fewer = np.arange(1, pulls + 1) / (pulls + 1)
    return float((pulls - (fewer**arms).sum() + 1) / (pulls + 2))


if __name__ == "__main__":
    learner = run_experiment(
        Config(family="envs:BernoulliBandit-v0", preset="tuned", iterations=150, eval_every=0),
        __doc__,
    )
    assert isinstance(learner, Learner)  # Config is its configuration
    evaluation = learner.evaluate(2000, steps=3)
    print_evaluation(evaluation)
    arms = evaluation.tasks["probability"].shape[1]
    print(f"best arm: {evaluation.tasks['probability'].max(1).mean():.3f}")
    for k in range(1, len(evaluation.returns)):
        pulls = k * learner.config.episodes
        print(f"best record after {pulls} pulls: {best_posterior_mean(arms, pulls // arms):.3f}")
