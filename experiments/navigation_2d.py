"""Navigation to a goal in the plane: MAML with TRPO at the published sizes.

Finn et al. 2017 (arXiv 1703.03400), section 5.3; with the sizes of tristandeleu/pytorch-maml-rl.
"""

from metarl import Config
from metarl.cli.train import run_experiment

if __name__ == "__main__":
    run_experiment(
        Config(
            family="envs:Navigation2D-v0",
            iterations=500,
            meta_batch_size=20,
            episodes=20,
            inner_lr=0.1,
        ),
        __doc__,
    )
