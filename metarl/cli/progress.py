"""Progress of a command in a terminal, and the width of what it prints."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

NARROWEST = 100
"""Columns that a table may take where the terminal has fewer, or where there is none."""


def console() -> Console:
    """Prints tables of at least `NARROWEST` columns."""
    return Console(width=max(Console().width, NARROWEST), markup=False)


@contextlib.contextmanager
def shown_progress() -> Iterator[Callable[[str, float], None]]:
    """In the block, a bar in the terminal for each text that the yielded function is called with.

    The function takes the text and the share that is done. Elsewhere than in a terminal it does
    nothing.
    """
    where = Console(stderr=True)
    if not where.is_terminal:
        yield lambda what, share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=where, transient=True) as live:

        def show(what: str, share: float) -> None:
            if what not in bars:
                bars[what] = live.add_task(what, total=1.0)
            live.update(bars[what], completed=share)

        yield show
