"""What TensorBoard shows of a run beside its scalars: the page of custom scalars."""

from collections.abc import Sequence

from metarl.evaluation.evaluation import EVALUATED_SPLITS
from metarl.support.types import Json

NO_HYPERPARAMETERS = {"run_dir", "resume", "sinks"}


def layout(measure: str, inner_steps: int, splits: Sequence[str]) -> Json:
    """The page of custom scalars."""
    charts = {
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
