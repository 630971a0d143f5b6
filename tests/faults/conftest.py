"""A table of what the tests of faults have tried, at the end of the output."""

import pytest
from counts import COLUMNS, Counts, table

PROPERTY = "faults"


@pytest.fixture
def counts(request):
    """What a test has tried; the test fails if there was anything but survival."""
    counts = Counts()
    yield counts
    name = request.node.name.removeprefix("test_").replace("_", " ")
    request.node.user_properties.append((PROPERTY, [name, *counts.row()]))


def pytest_terminal_summary(terminalreporter):
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == PROPERTY
    ]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(table([["what", *COLUMNS], *rows]))
