"""What the tests of faults share."""

import pytest
from fault_counts import PROPERTY, Counts


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
