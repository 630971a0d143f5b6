"""What TensorBoard shows of a run besides scalars, text and figures."""

from collections.abc import Callable, Mapping, Sequence

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

from metarl.evaluation.evaluation import EVALUATED_SPLITS

NO_HYPERPARAMETERS = {"run_dir", "resume", "sinks"}
"""Options of a run that the table of hyperparameters leaves out."""

Charts = dict[str, list[str | list[str]]]
"""Custom scalars by title: the kind of the chart (Multiline or Margin) and its tags."""

# PyTorch has no types for `hparams`, nor for `_get_file_writer` below.
hyperparameters: Callable[
    [Mapping[str, bool | int | float | str], Mapping[str, float]], tuple[Summary, ...]
] = hparams
"""(options, metrics) -> the summaries that make a row of the table of hyperparameters."""


def add_summary(writer: SummaryWriter, summary: Summary) -> None:
    """Adds a summary for which `SummaryWriter` has no method."""
    file_writer: Callable[[], FileWriter] = writer._get_file_writer
    file_writer().add_summary(summary)


def layout(measure: str, inner_steps: int, splits: Sequence[str]) -> dict[str, Charts]:
    """The page of custom scalars for `measure` and the evaluations of `splits`."""
    charts: Charts = {
        f"{measure} before and after adaptation": [
            "Multiline",
            [f"{measure}/before", f"{measure}/after"],
        ],
        "gain of adaptation": ["Multiline", [f"{measure}/gain"]],
    }
    for split in splits:
        steps = [f"{split}/step_{k}" for k in range(inner_steps + 1)]
        charts[f"{measure}, {split}"] = ["Multiline", [f"{step}/mean" for step in steps]]
        for k, step in enumerate(steps):
            margin = [f"{step}/{end}" for end in ("mean", "low", "high")]
            charts[f"{split}, step {k}, 95 % interval"] = ["Margin", margin]
    for split in dict.fromkeys((*splits, *EVALUATED_SPLITS)):
        margin = [f"evaluation/{split}/{end}" for end in ("mean", "low", "high")]
        charts[f"evaluation: {split}, against inner steps"] = ["Margin", margin]
    return {"Adaptation": charts}
