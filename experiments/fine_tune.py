"""Fine-tuning a trained backbone on few-shot tasks: meta-learned beside plainly fine-tuned.

The backbone (a torch state dict, `--backbone`) is trained on the training digits as any classifier
is, if no file is given, and saved in the run folder. A fresh head for N classes goes on top; the
inner loop adapts the head or the whole, and the meta-learner improves where it begins. Plain
fine-tuning has the step size that serves training tasks best.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import nn

from envs.classification import Domain, FewShotClassification, convolutional_net, digits
from metarl.cli.command_line import one_line_errors
from metarl.cli.evaluate import print_evaluation
from metarl.learners.few_shot import FewShotConfig, FewShotLearner
from metarl.runs.run import run
from metarl.support.errors import UsageError


@dataclass(frozen=True)
class FineTuneConfig(FewShotConfig):
    """A run that begins at a trained backbone."""

    backbone: Path | None = None
    """State dict of the convolutional net, whatever its head; trained first if not given."""
    backbone_epochs: int = 30
    """Passes over the training images, where the backbone is trained first."""
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
    """The net with the backbone's weights below a head for `ways` classes that is all zeros.

    Raises:
        UsageError: the weights are not those of this net.

    """
    module, head = convolutional_net(ways)
    own = {name: torch.zeros_like(p) for name, p in module.state_dict().items() if name in head}
    try:
        module.load_state_dict({**state, **own})
    except RuntimeError as error:
        raise UsageError(f"--backbone does not fit: {' '.join(str(error).split())}") from error
    return module, head


def load_backbone(config: FineTuneConfig, domain: Domain) -> dict[str, Any]:
    """The state dict of `--backbone`, or of the one in the run folder, trained now if need be."""
    path = config.backbone or config.run_dir / "backbone.pt"
    if config.backbone is None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train_backbone(domain, config.backbone_epochs), path)
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"--backbone {path} cannot be read: {error}") from error
    return state


if __name__ == "__main__":
    with one_line_errors():
        config = tyro.cli(FineTuneConfig, default=DEFAULT, description=__doc__)
        torch.manual_seed(config.seed)
        domain = digits()
        module, head = with_fresh_head(load_backbone(config, domain), config.ways)
        problem = FewShotClassification({"digits": domain}, module, head, config.ways, config.shots)
        learner = FewShotLearner(config, problem)
        plain, rate = learner.fine_tune()
        run(learner)
        print_evaluation(plain, f"backbone, plainly fine-tuned, step size {rate}")
        print_evaluation(learner.evaluate(), "backbone, meta-learned")
