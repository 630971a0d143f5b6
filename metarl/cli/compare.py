"""`metarl compare`: compares algorithms and controls on one family."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from metarl.cli.parsing import parse
from metarl.studies.comparison import Comparison, compare, table_rows


def run(arguments: Sequence[str]) -> None:
    """Compares algorithms and controls, and prints a table of their returns."""
    options = parse(Comparison, arguments, Comparison.__doc__, command="compare")
    lines = compare(options)
    rows = table_rows(lines)
    steps = (f"step {k}" for k in range(len(rows[0]) - 4))
    table = Table("", *steps, "end of each seed", "env steps", "minutes", box=None)
    for row in rows:
        table.add_row(*row)
    print(
        f"{options.family}: mean return on {options.eval_tasks} held-out tasks for each of "
        f"{options.seeds} seeds, 95 % interval over tasks"
    )
    Console(width=max(Console().width, 140)).print(table)
    print(
        f"wrote {options.folder}/comparison.png, .pdf and .csv; next: tensorboard --logdir "
        f"{options.folder}"
    )
