"""What TensorBoard shows of a run besides scalars, text and figures."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

Charts = dict[str, list[str | list[str]]]
"""Custom scalars by title: the kind of the chart (Multiline or Margin) and its tags."""

# PyTorch has no types for `hparams`, nor for `_get_file_writer` below.
_hparams: Callable[
    [Mapping[str, bool | int | float | str], Mapping[str, float]], tuple[Summary, ...]
] = hparams

FIRST = ("meta_batch_size", "inner_lr", "seed", "algorithm", "family")
"""Hyperparameters that come before others, from the last one. TensorBoard shows five columns."""


def add_summary(writer: SummaryWriter, summary: Summary) -> None:
    """Adds a summary for which `SummaryWriter` has no method."""
    file_writer: Callable[[], FileWriter] = writer._get_file_writer
    file_writer().add_summary(summary)


def hyperparameters(options: Mapping[str, object]) -> tuple[Summary, Summary]:
    """The summaries that make a run's row in the table of hyperparameters.

    TensorBoard finds by itself which options differ between the runs, and puts these first, by
    their names: a space in front of a name moves it to the front. It would not look if a summary
    described the experiment, as that of `SummaryWriter.add_hparams` does. It shows the first five
    options, and beside them the newest values of the run's scalars, again the first five by name.
    """
    values = {
        " " * (FIRST.index(name) + 1 if name in FIRST else 0) + name: (
            value if isinstance(value, (bool, int, float, str)) else str(value)
        )
        for name, value in options.items()
    }
    _, *row = _hparams(values, {})
    start, end = row
    return start, end


def leading(metrics: Mapping[str, float], measure: str, held_out: str) -> dict[str, float]:
    """The scalars that TensorBoard shows first, in its time series and beside hyperparameters.

    Its pages are in the order of the names, so these repeat the curves that a run is judged by
    under names that come first.

    Args:
        metrics: those of an iteration.
        measure: for example return.
        held_out: the metric on held-out tasks after the last inner step.

    """
    before = f"{held_out.partition('/')[0]}/step_0/mean"
    names = {
        "after": f"{measure}/after",
        "before": f"{measure}/before",
        "held_out_after": held_out,
        "held_out_before": before,
    }
    return {f"adaptation/{own}": metrics[tag] for own, tag in names.items() if tag in metrics}


def layout(
    measure: str, inner_steps: int, splits: Sequence[str], evaluated: Iterable[str] = ()
) -> dict[str, Charts]:
    """The page of custom scalars.

    All charts are margins, which are never smoothed: a line in a band. Where it shows what
    adaptation gains, the band reaches from before adaptation to the line after it.

    Args:
        measure: for example return.
        inner_steps: the last inner step of the evaluations in training.
        splits: those that were evaluated in training.
        evaluated: those in the report of `metarl evaluate`.

    """
    training = {
        f"{measure}: line after, edge before": _margin(f"{measure}/after", f"{measure}/before"),
        f"gain of {measure}": _margin(f"{measure}/gain"),
    }
    held_out: Charts = {}
    for split in splits:
        steps = [f"{split}/step_{k}" for k in range(inner_steps + 1)]
        before, after = f"{steps[0]}/mean", f"{steps[-1]}/mean"
        held_out[f"{split}: line after, edge before"] = _margin(after, before)
        for k, step in enumerate(steps):
            held_out[f"{split}, step {k}, 95 % interval"] = _interval(step)
    report = {f"{split}, over inner steps": _interval(f"evaluation/{split}") for split in evaluated}
    pages = {
        "Adaptation": training,
        "Evaluations in training": held_out,
        "metarl evaluate": report,
    }
    # TensorBoard shows the margin charts of a category from the last to the first.
    return {title: dict(reversed(charts.items())) for title, charts in pages.items() if charts}


def _margin(tag: str, other: str | None = None) -> list[str | list[str]]:
    """A line, and a band from there to another one."""
    return ["Margin", [tag, other or tag, tag]]


def _interval(name: str) -> list[str | list[str]]:
    return ["Margin", [f"{name}/{end}" for end in ("mean", "low", "high")]]
