"""`metarl plot`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from metarl.cli.parsing import parse
from metarl.studies.curves import group, read_run, write_figures
from metarl.support.errors import UsageError


@dataclass(frozen=True)
class _Plot:
    """Figures of runs, those that differ in their seeds together: .png, .pdf, and a .csv."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders; `metarl evaluate` gives them the curve over inner steps."""
    out: Path = Path("curves")
    """The files' name without an ending."""
    title: str = ""
    """Above the figure."""


def run(arguments: Sequence[str]) -> None:
    """Draws runs."""
    options = parse(_Plot, arguments, _Plot.__doc__, command="plot")
    if not options.runs:
        raise UsageError("metarl plot RUN ...: name a run folder")
    lines = group([read_run(path) for path in options.runs])
    paths = write_figures(lines, options.out, options.title)
    print(f"wrote {', '.join(map(str, paths))}")
