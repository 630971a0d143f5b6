"""Counts how each fault ended, and prints a table of them."""

from collections import Counter

import pytest

ENDINGS = ("clear", "survived", "traceback", "hang", "silent")
"""A clear message; nothing lost and nothing to say; and what must not be."""


@pytest.fixture
def ended(request):
    """Counts one try of a fault: `ended(ENDING)`; whatever is neither clear nor survived fails."""

    def record(ending, why=""):
        request.node.user_properties.append(("fault", (request.node.fspath.basename, ending)))
        assert ending in ENDINGS[:2], f"{ending}: {why}"

    return record


def pytest_terminal_summary(terminalreporter):
    told = [
        tuple(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "fault"
    ]
    if not told:
        return
    counts = Counter(told)
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'':28s}" + "".join(f"{x:>10s}" for x in ("tried", *ENDINGS)))
    for file in sorted({file for file, _ in told}):
        row = [counts[file, ending] for ending in ENDINGS]
        terminalreporter.write_line(f"{file:28s}" + "".join(f"{n:10d}" for n in (sum(row), *row)))
