"""Disks that are full, broken or protected: a plain message, and nothing is lost."""

import errno
import functools
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from calls import Calls
from runs import content, differing, in_process, train
from test_kills import FEW, counted, evenly, undisturbed  # noqa: F401 (a fixture)

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT)


def failing(number, first, last):
    """What the calls from `first` to `last` raise."""

    def act(at, kind, path):
        if first <= at <= last:
            raise OSError(number, os.strerror(number), os.fspath(path))

    return act


def trained_with_failures(folder, number, first, last, **options):
    """Trains; calls fail, and a write does half of its work before."""
    calls = Calls(folder, failing(number, first, last), lambda at: first <= at <= last)
    train(folder, calls, **options)


def failed_and_resumed(folder, number, first, last, expected, counts):
    """Trains with a failing disk, resumes with a whole one, and counts what came of it."""
    output = folder.with_suffix(".txt")
    code = in_process(trained_with_failures, folder, number, first, last, output=output)
    text = output.read_text()
    about = f"{errno.errorcode[number]} in calls {first} to {last}: exit code {code}: {text[-600:]}"
    plain = code in (0, 2) and "Traceback" not in text
    said = "error: " in text or "WARNING: " in text
    if not plain:
        return counts.add("traceback", about)
    if code == 2 and not said:
        return counts.add("silent", about)
    if list(folder.rglob(".*part")) and last < 10**6:
        return counts.add("lost", f"unfinished files stay: {about}")
    if code == 0:  # only a log failed: what the run has learned is that of a whole one
        wrong = set(differing(folder, expected)) - (
            {"scalars", "images", "texts", "tags"} if said else set()
        )
        return counts.add("silent" if wrong else "survived", f"{wrong}: {about}")
    code = in_process(functools.partial(train, folder, resume=True), output=output)
    text = output.read_text()
    wrong = differing(folder, expected)
    events = {"scalars", "images", "texts", "tags"}
    if code != 0 or "Traceback" in text:
        return counts.add("traceback", f"resumed: {about} {text[-300:]}")
    return counts.add("lost" if set(wrong) - events else "survived", f"{wrong}: {about}")


@pytest.mark.parametrize(
    "number", [FEW, pytest.param(60, marks=pytest.mark.faults)], ids=["sample", "all"]
)
def test_calls_that_fail(undisturbed, number, tmp_path, counts):  # noqa: F811
    """One call fails, or all from there, for each kind of error."""
    reference, calls = undisturbed
    expected = content(reference)
    others = [i for i, (_, path) in enumerate(calls, 1) if "tfevents" not in path]
    events = [i for i, (_, path) in enumerate(calls, 1) if "tfevents" in path]
    picked = evenly(others, number - number // 3) + evenly(events, number // 3)
    tries = [(ERRORS[i % len(ERRORS)], at, at if i % 2 else 10**9) for i, at in enumerate(picked)]
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda one: failed_and_resumed(
                    tmp_path / f"{one[1]}-{one[0]}", *one, expected, counts
                ),
                tries,
            )
        )
    counts.expect_survival(at_least=number)
