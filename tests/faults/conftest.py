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
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)]
    rows = [
        value
        for report in reports
        if report.when == "teardown" or report.when == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    unique = list({row[0]: row for row in rows}.values())
    if unique:
        terminalreporter.section("faults")
        terminalreporter.write_line(table([["what", *COLUMNS], *unique]))
