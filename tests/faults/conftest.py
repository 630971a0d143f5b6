"""A table of what the tests of faults have tried, at the end of the output."""

import pytest
from counts import COLUMNS, Counts, table

PROPERTY = "faults"


@pytest.fixture
def counts(request):
    """What a test has tried; the test fails if there was anything but survival."""
    counts = Counts()
    yield counts
    name = request.node.name.partition("[")[0].removeprefix("test_").replace("_", " ")
    request.node.user_properties.append((PROPERTY, [name, *counts.row()]))


@pytest.fixture
def ended(counts):
    """Counts a single try: `ended(OUTCOME, WHY)`, which fails the test if it did not survive."""

    def record(outcome, why=""):
        counts.add(outcome, why)
        counts.expect_survival(at_least=1)

    return record


def pytest_terminal_summary(terminalreporter):
    sums = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for property_name, row in getattr(report, "user_properties", ()):
                if property_name == PROPERTY:
                    name, *numbers = row
                    before = sums.get(name, [0] * len(numbers))
                    sums[name] = [a + b for a, b in zip(before, numbers, strict=True)]
    if sums:
        terminalreporter.section("faults")
        rows = [[name, *numbers] for name, numbers in sums.items()]
        whole = ["all", *(sum(column) for column in zip(*sums.values(), strict=True))]
        terminalreporter.write_line(table([["what", *COLUMNS], *rows, whole]))
