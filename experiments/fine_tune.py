"""Fine-tuning of a trained backbone on few-shot tasks, with meta-learning and without.

`--backbone` is a torch state dict. Without it, the script trains a classifier of the training
digits and saves it in the run folder. The backbone gets a new head for N classes. The inner loop
adapts the head or the whole network, and the meta-learner improves the weights that it starts from.
Plain fine-tuning uses the step size that is best on training tasks.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from envs.classification import digits
from metarl.cli.command_line import one_line_errors
from metarl.cli.evaluate import print_evaluation
from metarl.cli.parsing import parse
from metarl.learners.few_shot import FewShotConfig, FewShotLearner
from metarl.runs.run import run
from metarl.support.errors import UsageError
from metarl.support.ranks import is_leader, ranks
from metarl.tasks.classification import Domain, FewShotClassification, convolutional_net


@dataclass(frozen=True)
class FineTuneConfig(FewShotConfig):
    """A run that starts from a trained backbone."""

    backbone: Path | None = None
    """State dict of the convolutional net with any head; trained first if not given."""
    backbone_epochs: int = 30
    """Passes over the training images, if the backbone is trained first."""
    ways: int = 5
    """N: classes of a task."""
    shots: int = 1
    """K: samples of each class to adapt on."""


DEFAULT = FineTuneConfig(
    iterations=500,
    run_dir=Path("runs/fine_tune"),
    meta_batch_size=16,
    inner_lr=0.01,
    inner_steps=3,
    eval_every=100,
    eval_tasks=400,
)


def train_backbone(domain: Domain, epochs: int) -> dict[str, Any]:
    """The state dict of a classifier of all training classes."""
    module, _ = convolutional_net(len(domain.train))
    x = torch.from_numpy(np.concatenate(domain.train)).float()
    y = torch.arange(len(domain.train)).repeat_interleave(
        torch.tensor([len(images) for images in domain.train])
    )
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimiser.step()
    return module.state_dict()


def with_fresh_head(state: dict[str, Any], ways: int) -> tuple[nn.Module, tuple[str, ...]]:
    """The net with the weights of the backbone and a head of zeros for `ways` classes.

    Raises:
        UsageError: the weights do not fit this net.

    """
    module, head = convolutional_net(ways)
    own = {name: torch.zeros_like(p) for name, p in module.state_dict().items() if name in head}
    try:
        module.load_state_dict({**state, **own})
    except RuntimeError as error:
        raise UsageError(f"--backbone does not fit: {' '.join(str(error).split())}") from error
    return module, head


def load_backbone(config: FineTuneConfig, domain: Domain) -> dict[str, Any]:
    """The state dict of `--backbone`, or that in the run folder, which is trained if needed."""
    path = config.backbone or config.run_folder / "backbone.pt"
    if config.backbone is None and not path.exists() and is_leader():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train_backbone(domain, config.backbone_epochs), path)
    ranks(config.rank_timeout).exchange(None)  # other processes of torchrun wait for the file
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"--backbone {path} cannot be read: {error}") from error
    return state


if __name__ == "__main__":
    with one_line_errors():
        config = parse(FineTuneConfig, sys.argv[1:], __doc__, DEFAULT)
        torch.manual_seed(config.seed)
        domain = digits()
        module, head = with_fresh_head(load_backbone(config, domain), config.ways)
        problem = FewShotClassification({"digits": domain}, module, head, config.ways, config.shots)
        learner = FewShotLearner(config.on(), problem)
        plain, rate = learner.fine_tune()
        run(learner)
        print_evaluation(plain, f"backbone, plainly fine-tuned, step size {rate}")
        print_evaluation(learner.evaluate(), "backbone, meta-learned")
