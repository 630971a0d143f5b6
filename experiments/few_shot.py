"""Few-shot classification with MAML: real images with held-out classes, or generated graphs.

`digits` and `photographs` are data sets that scikit-learn ships. A run can learn several domains
and reports the result for each. Tasks on `graphs` ask for a structural property, some of which are
held out. For comparison, the same model is fine-tuned from its random initialisation on the same
held-out tasks, without meta-learning, with the step size that is best on training tasks.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metarl.cli.command_line import one_line_errors
from metarl.cli.evaluate import print_evaluation
from metarl.cli.parsing import parse
from metarl.learners.few_shot import FewShotConfig, FewShotLearner
from metarl.runs.run import run


@dataclass(frozen=True)
class ClassificationConfig(FewShotConfig):
    """A run on few-shot classification."""

    domains: tuple[Literal["digits", "photographs", "graphs"], ...] = ("digits", "photographs")
    """Domains that the tasks come from in turn; graphs cannot be combined with others."""
    ways: int = 5
    """N: classes of a task on images; 2 for binary tasks."""
    shots: int = 1
    """K: samples of each class to adapt on."""


DEFAULT = ClassificationConfig(
    iterations=2000,
    run_dir=Path("runs/few_shot"),
    meta_batch_size=16,
    inner_lr=0.1,
    inner_steps=3,
    eval_every=200,
    eval_tasks=400,
    checkpoint_every=200,
)


if __name__ == "__main__":
    with one_line_errors():
        config = parse(ClassificationConfig, sys.argv[1:], __doc__, DEFAULT)
        options = {"ways": config.ways, "shots": config.shots}
        problem = "envs.classification:classification"
        learner = FewShotLearner(config.on(problem, domains=" ".join(config.domains), **options))
        plain, rate = learner.fine_tune()
        run(learner)
        print_evaluation(plain, f"fine-tuned from the random initialisation, step size {rate}")
        print_evaluation(learner.evaluate(), "meta-learned")
