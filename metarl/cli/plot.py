"""`metarl plot`: draws figures of runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from metarl.cli.parsing import parse
from metarl.studies.curves import group, read_run, write_figures
from metarl.support.errors import UsageError


@dataclass(frozen=True)
class _Plot:
    """Draw figures of runs, with one line for all runs that differ only in their seeds."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders; the curve over inner steps needs a `metarl evaluate` of each run."""
    out: Path = Path("curves")
    """Name of the files without the suffix."""
    title: str = ""
    """Title of the figure."""


def run(arguments: Sequence[str]) -> None:
    """Draws figures of runs."""
    options = parse(_Plot, arguments, _Plot.__doc__, command="plot")
    if not options.runs:
        raise UsageError("metarl plot needs a run folder: metarl plot RUN ...")
    lines = group([read_run(path) for path in options.runs])
    paths = write_figures(lines, options.out, options.title)
    print(f"wrote {', '.join(map(str, paths))}")
