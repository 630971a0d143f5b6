"""Two processes in one folder, locks that are left or lost, and clocks that jump."""

import functools
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from calls import Calls
from test_kills import (
    KILLED,
    expect_the_same_in_the_server,
    trained_until,
    undisturbed,  # noqa: F401 (a fixture)
)
from trained import OPTIONS, content, differing, in_process, train

NUMBERS = pytest.mark.parametrize(
    "number", [1, pytest.param(10, marks=pytest.mark.faults)], ids=["sample", "all"]
)


@NUMBERS
def test_several_processes_begin_in_one_folder(undisturbed, number, tmp_path, counts):  # noqa: F811
    """One trains, and each of the others says who does."""
    expected = content(undisturbed[0])
    for i in range(number):
        folder = tmp_path / str(i)
        outputs = [tmp_path / f"{i}-{k}.txt" for k in range(3)]
        with ThreadPoolExecutor(3) as pool:
            codes = list(
                pool.map(
                    lambda output, folder=folder: in_process(
                        functools.partial(train, folder, resume=True), output=output
                    ),
                    outputs,
                )
            )
        texts = [output.read_text() for output in outputs]
        refused = [text for text, code in zip(texts, codes, strict=True) if code == 2]
        about = f"{codes}: {texts}"[:2000]
        if set(codes) - {0, 2} or "Traceback" in "".join(texts):
            counts.add("traceback", about)
        elif not all("is in use by process" in text for text in refused):
            counts.add("silent", about)
        else:
            counts.add("lost" if differing(folder, expected) else "survived", about)
    counts.expect_survival(at_least=number)


def in_the_middle(folder, ready, act):
    """Trains; `act` comes before the third line of metrics."""

    def before(number, kind, path):
        if kind == "write" and str(path).endswith("metrics.jsonl"):
            ready.append(number)
            if len(ready) == 3:
                act(folder)

    train(folder, Calls(folder, before))


def take_over(folder):
    """Another process deletes the lock and trains to the end."""
    (folder / "lock").unlink()
    code = in_process(functools.partial(train, folder, resume=True), output=folder / "other.txt")
    assert code == 0, (folder / "other.txt").read_text()
    (folder / "other.txt").unlink()


def delete_the_lock(folder):
    """The lock is deleted, and nobody comes."""
    (folder / "lock").unlink()


def delete_the_metrics(folder):
    """A user cleans up too much."""
    (folder / "metrics.jsonl").unlink()


def replace_the_metrics(folder):
    """An editor saves what it had read before."""
    (folder / "other").write_text("")
    (folder / "other").replace(folder / "metrics.jsonl")


SAID = {
    take_over: (2, "was taken by another process after its lock was deleted"),
    delete_the_lock: (0, ""),
    delete_the_metrics: (0, "metrics.jsonl was deleted or replaced: it is written again"),
    replace_the_metrics: (0, "metrics.jsonl was deleted or replaced: it is written again"),
}


@pytest.mark.parametrize("act", SAID, ids=lambda act: act.__name__)
def test_what_happens_in_the_folder_of_a_running_run(undisturbed, act, tmp_path, counts):  # noqa: F811
    code, said = SAID[act]
    folder, output = tmp_path / "run", tmp_path / "output"
    # Not a child of the fork server, which must begin the other process.
    found = in_process(in_the_middle, folder, [], act, output=output)
    text = output.read_text()
    about = f"exit code {found}: {text[-1000:]}"
    if found != code or "Traceback" in text:
        counts.add("traceback", about)
    elif said not in text:
        counts.add("silent", about)
    else:
        wrong = differing(folder, content(undisturbed[0]))
        counts.add("lost" if wrong else "survived", f"{wrong}: {about}")
    counts.expect_survival(at_least=1)


def jumping(train_it, folder, seed, *arguments, **options):
    """Trains; the clock jumps by up to a year, forth and back, at each look."""
    generator, now = random.Random(seed), time.time
    time.time = lambda: now() + generator.uniform(-3e7, 3e7)
    train_it(folder, *arguments, **options)


@NUMBERS
def test_the_clock_jumps(undisturbed, number, tmp_path, counts):  # noqa: F811
    """Runs are killed and resumed, and every part has another time."""
    reference, calls = undisturbed
    expected = content(reference)
    for i in range(number):
        folder, output = tmp_path / "runs" / str(i), tmp_path / f"{i}.txt"
        for k in range(2 if number > 1 else 1):
            last = len(calls) // 2 + (len(calls) // 2 - 2) * i // number + k
            seed = i + 100 * k
            code = in_process(jumping, trained_until, folder, seed, last, False, output=output)
            assert code == KILLED or k, output.read_text()
        code = in_process(functools.partial(jumping, train, folder, i, resume=True), output=output)
        wrong = differing(folder, expected)
        about = f"{code}, {wrong}: {output.read_text()[-500:]}"
        counts.add("traceback" if code else "silent" if wrong else "survived", about)
    expect_the_same_in_the_server(tmp_path / "runs", reference, counts)
    counts.expect_survival(at_least=number)


@pytest.mark.faults
def test_two_comparisons_in_one_folder(tmp_path, counts):
    """Together they do all; one that finds a run in use says so, and what to do."""
    words = ["compare", "--family", OPTIONS["family"], "--algorithms", "maml-pg", "--seeds", "2"]
    words += ["--iterations", "20", "--meta-batch-size", "2", "--episodes", "2", "--horizon", "3"]
    words += ["--eval-tasks", "2", "--processes", "2", "--run-dir", str(tmp_path / "comparison")]
    command = [sys.executable, "-m", "metarl", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in started]
    for process, (_, errors) in zip(started, outputs, strict=True):
        last = (errors.strip().splitlines() or [""])[-1]
        plain = process.returncode == 0 or (
            process.returncode == 2 and "is in use by another process: give the same" in last
        )
        counts.add("survived" if plain and "Traceback" not in errors else "traceback", errors)
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    counts.add("survived" if again.returncode == 0 else "lost", again.stderr)
    assert (tmp_path / "comparison" / "comparison.png").exists()
    counts.expect_survival(at_least=3)
