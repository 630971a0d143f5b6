"""Few-shot regression of sinusoids by MAML (Finn et al. 2017, arXiv 1703.03400, section 5.1).

Inner step size .01, one step on 10 points; Adam at .001. `--shots 5` and `--inner-steps 5`, or
`--step-sizes per_parameter` (Meta-SGD), are variants of the literature.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from envs.sinusoid import Sinusoid
from metarl.cli.command_line import one_line_errors
from metarl.cli.evaluate import print_evaluation
from metarl.learners.few_shot import FewShotConfig, FewShotLearner
from metarl.runs.run import run


@dataclass(frozen=True)
class SinusoidConfig(FewShotConfig):
    """A run on sinusoids."""

    shots: int = 10
    """K: points of the support set."""


DEFAULT = SinusoidConfig(
    iterations=15000,
    run_dir=Path("runs/sinusoid"),
    eval_every=1000,
    eval_tasks=600,
    checkpoint_every=1000,
)

if __name__ == "__main__":
    with one_line_errors():
        config = tyro.cli(SinusoidConfig, default=DEFAULT, description=__doc__)
        torch.manual_seed(config.seed)
        learner = FewShotLearner(config, Sinusoid(config.shots))
        run(learner)
        print_evaluation(learner.evaluate())
