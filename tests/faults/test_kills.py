"""A run is killed at the system calls by which it writes, and resumed: nothing differs then."""

import functools
import json
import shutil
import signal
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from calls import Calls, end_at
from tensorboard.data.provider import RunTagFilter
from tensorboard.data.server_ingester import SubprocessServerDataIngester, get_server_binary
from tensorboard.util import grpc_util
from trained import LAST, TIMED, content, differing, in_process, shown, train

from metarl.runs.metrics import METRICS

KILLED = -signal.SIGKILL
FEW = 5
"""Kills of the sample in the default suite."""


def trained_until(folder, last, torn, **options):
    """Trains; the process is killed at call number `last`."""
    train(folder, Calls(folder, end_at(last), lambda number: torn and number == last), **options)


def counted(folder, into, **options):
    """Trains, and writes the calls to the file `into`."""
    calls = Calls(folder, lambda *_: None)
    train(folder, calls, **options)
    into.write_text(json.dumps(calls.made))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that nothing has disturbed, and the calls by which it wrote."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert in_process(counted, folder / "run", folder / "calls", output=folder / "output") == 0
    return folder / "run", json.loads((folder / "calls").read_text())


def chosen(calls, number):
    """Numbers, from 1, of so many of the calls: at most half of them are TensorBoard's."""
    events, others = [], []
    for i, (_, path) in enumerate(calls, 1):
        (events if "tfevents" in path else others).append(i)
    few = number // 2
    return sorted(evenly(events, few) + evenly(others, number - few))


def evenly(elements, number):
    """So many of the elements, or all, at equal distances."""
    number = min(number, len(elements))
    return [elements[i * len(elements) // number] for i in range(number)]


def killed_and_resumed(folder, at, torn, expected, counts, **first):
    """Kills a run in the folder at a call, resumes it, and counts what came of it.

    `first` are options of the run that is killed.
    """
    output = folder.with_suffix(".txt")
    kill = functools.partial(trained_until, folder, at, torn, **first)
    code = in_process(kill, output=output)
    about = f"call {at}{' torn' if torn else ''}"
    if code == 0:  # it made fewer calls than the run in which they were counted
        return None
    if code != KILLED:
        return counts.add("traceback", f"{about}: exit code {code}: {output.read_text()[-500:]}")
    code = in_process(functools.partial(train, folder, resume=True), output=output)
    text = output.read_text()
    if code != 0 or "Traceback" in text:
        return counts.add("traceback", f"{about}: exit code {code}: {text[-500:]}")
    if wrong := differing(folder, expected):
        return counts.add("silent", f"{about}: {wrong}")
    return counts.add("survived", about)


def each_killed(calls, number, expected, make_folder, counts, **first):
    """Kills a run of its own at each of about so many of the calls, torn writes besides."""
    picked = [
        (at, torn)
        for at in chosen(calls, number)
        for torn in ((False, True) if calls[at - 1][0] == "write" and number > FEW else (False,))
    ]
    with ThreadPoolExecutor(2) as pool:
        kill = functools.partial(killed_and_resumed, expected=expected, counts=counts, **first)
        list(pool.map(lambda pair: kill(make_folder(*pair), *pair), picked))


def scalars_of_the_server(parent, runs):
    """What TensorBoard's data server reads of so many runs in the folder: {run: {tag: points}}."""
    ingester = SubprocessServerDataIngester(
        server_binary=get_server_binary(),
        logdir=str(parent),
        reload_interval=1,
        channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
        samples_per_plugin={"scalars": 1_000_000},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it forgets the process that it starts
        ingester.start()
    provider, found = ingester.data_provider, {}
    try:
        for _ in range(60):  # it reads in the background
            before = found
            series = provider.read_scalars(
                None,
                experiment_id="",
                plugin_name="scalars",
                downsample=1_000_000,
                run_tag_filter=RunTagFilter(),
            )
            found = {
                run: {
                    tag: [(point.step, point.value) for point in points]
                    for tag, points in tags.items()
                    if not tag.startswith(TIMED)
                }
                for run, tags in series.items()
            }
            if len(found) == runs and found == before:
                return found
            time.sleep(1.5)
    finally:
        ingester._stdin_handle.close()  # it ends with its input
    raise AssertionError(f"the data server has {len(found)} of {runs} runs, or does not rest")


def expect_the_same_in_the_server(parent, reference, counts):
    """Compares what the data server reads of each run with the Python loader's undisturbed run."""
    scalars = shown(reference)[0]
    found = scalars_of_the_server(parent, sum(path.is_dir() for path in Path(parent).iterdir()))
    for run, tags in found.items():
        if tags != scalars:
            counts.add("silent", f"data server: {run}")


NUMBERS = pytest.mark.parametrize(
    "number", [FEW, pytest.param(130, marks=pytest.mark.faults)], ids=["sample", "all"]
)


@NUMBERS
def test_runs_killed_at_a_call_that_writes(undisturbed, number, tmp_path, counts):
    """In a whole run: its begin, iterations, evaluations and checkpoints."""
    reference, calls = undisturbed
    expected = content(reference)
    assert [m["iteration"] for m in expected["metrics"]] == list(range(1, LAST + 1))
    assert expected["scalars"]["return/after"][-1][0] == LAST
    each_killed(calls, number, expected, lambda at, torn: tmp_path / f"{at}-{torn}", counts)
    expect_the_same_in_the_server(tmp_path, reference, counts)
    counts.expect_survival(at_least=number)


@NUMBERS
def test_resumed_runs_killed_at_a_call_that_writes(undisturbed, number, tmp_path, counts):
    """While a run that was killed in its fourth iteration is resumed, to its end."""
    reference, calls = undisturbed
    expected = content(reference)
    checkpoint = calls.index(["rename", "checkpoints/.000002.part"])
    begun = tmp_path / "begun" / "run"
    fourth = [i for i, (kind, path) in enumerate(calls) if path == METRICS and kind == "write"][3]
    assert fourth > checkpoint
    begun.parent.mkdir()
    assert in_process(trained_until, begun, fourth + 20, True) == KILLED

    def copied(*names):
        folder = tmp_path / "runs" / "-".join(map(str, names))
        shutil.copytree(begun, folder)
        return folder

    whole = copied("whole")
    options = {"resume": True}
    count = functools.partial(counted, whole, tmp_path / "calls", **options)
    assert in_process(count, output=tmp_path / "output") == 0
    assert not differing(whole, expected)
    calls = json.loads((tmp_path / "calls").read_text())
    each_killed(calls, number, expected, copied, counts, **options)
    expect_the_same_in_the_server(tmp_path / "runs", reference, counts)
    counts.expect_survival(at_least=number)
