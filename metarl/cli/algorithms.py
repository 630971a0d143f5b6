"""`metarl algorithms`: lists the named algorithms."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from metarl.learners.presets import ALGORITHMS, CONTROLS, RL2


def run(_: Sequence[str]) -> None:
    """Lists the named algorithms."""
    table = Table("algorithm", "what it is", "source", box=None)
    for name, algorithm in (ALGORITHMS | CONTROLS).items():
        table.add_row(name, algorithm.summary, algorithm.source)
    table.add_row(
        RL2,
        "a recurrent policy (--learner rl2), a control of metarl compare",
        "Duan et al. 2016, arXiv 1611.02779",
    )
    Console(markup=False).print(table)
