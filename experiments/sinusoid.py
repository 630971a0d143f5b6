"""Few-shot regression of sinusoids with MAML (Finn et al. 2017, arXiv 1703.03400, section 5.1).

The inner loop takes one step of size .01 on 10 points; the outer loop is Adam with step size .001.
Variants of the literature are `--shots 5`, `--inner-steps 5`, and `--step-sizes per_parameter`
(Meta-SGD).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from metarl.cli.command_line import one_line_errors
from metarl.cli.evaluate import print_evaluation
from metarl.cli.parsing import parse
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
        config = parse(SinusoidConfig, sys.argv[1:], __doc__, DEFAULT)
        learner = FewShotLearner(config.on("envs.sinusoid:Sinusoid", shots=config.shots))
        run(learner)
        print_evaluation(learner.evaluate())
