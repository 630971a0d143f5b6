"""`metarl check`: checks families for what training relies on."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from metarl.simulation.checker import check_family
from metarl.support.errors import UsageError
from metarl.support.text import counted
from metarl.tasks.family import make_family


def run(names: Sequence[str]) -> None:
    """Checks families and prints a table for each; exits with status 1 if one has a fault."""
    if not names:
        raise UsageError("metarl check needs a family, as in metarl check envs:Navigation2D-v0")
    faults = 0
    for name in names:
        table = Table("", "check", "found", box=None, title=name, title_justify="left")
        for finding in check_family(make_family(name)):
            detail = finding.detail + (f"\n→ {finding.hint}" if finding.hint else "")
            outcome = "caution" if finding.caution else "ok" if finding.passed else "FAULT"
            table.add_row(outcome, finding.name, detail)
            faults += not finding.passed
        Console().print(table)
    if faults:
        print(f"{counted(faults, 'fault')} found", file=sys.stderr)
        raise SystemExit(1)
