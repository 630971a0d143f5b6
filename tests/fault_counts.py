"""What a test of faults has tried, and what came of it."""

from collections import Counter

COLUMNS = ("tried", "survived", "traceback", "hang", "lost", "silent")
"""Survived: as if nothing had happened, or one line that says what is wrong. Silent: wrong, and no
word about it."""


PROPERTY = "faults"
"""Of a test's report, with its row of the table."""


class Counts:
    """How often each outcome came, and what led to the bad ones."""

    def __init__(self):
        self._counted = Counter()
        self.bad = []

    def add(self, outcome, about):
        """Notes one try: `outcome` is one of COLUMNS after the first."""
        assert outcome in COLUMNS[1:]
        self._counted[outcome] += 1
        if outcome != "survived":
            self.bad.append((outcome, about))

    def row(self):
        """The numbers of COLUMNS."""
        return [self._counted.total(), *(self._counted[name] for name in COLUMNS[1:])]

    def expect_survival(self, at_least):
        """Fails unless so many were tried and all survived."""
        assert self.row()[0] >= at_least
        shown = "\n".join(f"{outcome}: {about}" for outcome, about in self.bad[:20])
        assert not self.bad, f"{len(self.bad)} of {self.row()[0]}:\n{shown}"


def table(rows):
    """Rows of cells as aligned lines."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
