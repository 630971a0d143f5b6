"""Disks that are full, broken or protected: a plain message, and nothing is lost."""

import errno
import fcntl
import functools
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from calls import Calls
from forked import python
from test_kills import FEW, counted, evenly, undisturbed  # noqa: F401 (a fixture)
from trained import OPTIONS, content, differing, files_of, in_process, train

from metarl import Config, UsageError
from metarl.learners.maml import MAMLLearner
from metarl.runs import run
from metarl.runs.folder import RunFolder
from metarl.runs.lock import is_in_use

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
    said = "error: " in text or "WARNING: " in text
    if code not in (0, 2) or "Traceback" in text:
        return counts.add("traceback", about)
    # Where only TensorBoard's file failed, TensorBoard lacks what came then, and no more.
    lacking = {"scalars", "images", "texts", "tags"} if said else set()

    def differs():
        wrong = set(differing(folder, expected)) - lacking
        if lacking and files_of(folder) ^ expected["files"] <= {"events"}:
            wrong.discard("files")
        return wrong

    if code == 0 and (wrong := differs()):
        return counts.add("silent", f"{wrong}: {about}")
    if code == 2 and not said:
        return counts.add("silent", about)
    code = in_process(functools.partial(train, folder, resume=True), output=output)
    text = output.read_text()
    if code != 0 or "Traceback" in text:
        return counts.add("traceback", f"resumed with {code}: {about} {text[-300:]}")
    if (wrong := differs()) or list(folder.rglob(".*part")):
        return counts.add("lost", f"resumed: {wrong}: {about}")
    return counts.add("survived", about)


@pytest.mark.parametrize(
    "number", [FEW, pytest.param(100, marks=pytest.mark.faults)], ids=["sample", "all"]
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


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    made = shutil.which("mount") and subprocess.run(mount, capture_output=True)
    if not made or made.returncode:
        pytest.skip("a file system in memory can be mounted by root only")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk, free):
    """Leaves so many bytes of the disk."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    usage = os.statvfs(disk)
    filler.write_bytes(b"x" * max(0, usage.f_bavail * usage.f_frsize - free))


@pytest.mark.parametrize(
    "number", [1, pytest.param(12, marks=pytest.mark.faults)], ids=["sample", "all"]
)
def test_a_full_disk(undisturbed, number, small_disk, counts):  # noqa: F811
    """The disk has room for a part of a run; after there is more room, the run goes on."""
    expected = content(undisturbed[0])
    for free in evenly(range(0, 65_536, 4096), number) if number > 1 else [40_000]:
        folder, output = small_disk / "run", small_disk.parent / f"{free}.txt"
        fill(small_disk, free)
        code = in_process(functools.partial(train, folder), output=output)
        text = output.read_text()
        about = f"{free} bytes free: exit code {code}: {text[-600:]}"
        (small_disk / "filler").unlink()
        again = in_process(functools.partial(train, folder, resume=True), output=output)
        wrong = set(differing(folder, expected)) - {"scalars", "images", "texts", "tags"}
        if code not in (0, 2) or again or "Traceback" in output.read_text():
            counts.add("traceback", f"{about}; resumed with {again}: {output.read_text()[-600:]}")
        elif "No space left on device" not in text:
            counts.add("silent", about)
        else:
            counts.add("lost" if wrong else "survived", f"{wrong}: {about}")
        shutil.rmtree(folder)
    counts.expect_survival(at_least=number)


SMALL = ["--meta-batch-size", "2", "--episodes", "2", "--horizon", "3", "--iterations", "1"]
WRITING = {
    "train": ["train", "--family", OPTIONS["family"], *SMALL, "--run-dir", "{disk}/new"],
    "resume": ["train", "--resume", "--run-dir", "{disk}/run", "--iterations", "6"],
    "evaluate": ["evaluate", "{disk}/run", "--tasks", "2", "--splits", "test"],
    "adapt": ["adapt", "{disk}/run"],
    "video": ["adapt", "{disk}/run", "--out", "{free}/policy", "--video", "{disk}/video.gif"],
    "plot": ["plot", "{disk}/run", "--out", "{disk}/figure"],
    "compare": ["compare", "--family", OPTIONS["family"], "--run-dir", "{disk}/comparison"],
    "show": ["show", OPTIONS["family"], "--out", "{disk}/clip.gif"],
    "new-family": ["new-family", "Found"],
}
WITHOUT_PRIVILEGES = """
import ctypes, runpy
version, none = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(version, none) == 0
runpy.run_module("metarl", run_name="__main__", alter_sys=True)
"""
"""The command, without the capabilities by which root may write everywhere."""


@pytest.mark.faults
@pytest.mark.parametrize("state", ["full", "read-only", "protected"])
@pytest.mark.parametrize("command", WRITING)
def test_a_command_that_cannot_write(undisturbed, state, command, small_disk, tmp_path, counts):  # noqa: F811
    shutil.copytree(undisturbed[0], small_disk / "run")
    before = files_of(small_disk / "run")
    if state == "full":
        fill(small_disk, 0)
    elif state == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    else:
        subprocess.run(["chmod", "-R", "a-w", str(small_disk)], check=True)
    words = [word.format(disk=small_disk, free=tmp_path) for word in WRITING[command]]
    result = python("-c", WITHOUT_PRIVILEGES, *words, cwd=small_disk)
    lines = result.stderr.splitlines()
    about = f"{result.returncode}: {result.stderr[-1500:]}"
    if result.returncode not in (1, 2) or "Traceback" in result.stderr:
        counts.add("traceback", about)
    elif not lines[-1].startswith("error: "):
        counts.add("silent", about)
    else:
        same = files_of(small_disk / "run") == before and not list(small_disk.glob("*.py"))
        counts.add("survived" if same else "lost", about)
    counts.expect_survival(at_least=1)


def no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_disk_without_locks_is_not_in_use(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = RunFolder(tmp_path / "run")
    assert "cannot be locked (No locks available)" in caplog.text
    assert not is_in_use(tmp_path / "run")
    # What is written there names the process: another living one of this machine keeps it.
    owner = (tmp_path / "run" / "lock").read_text()
    parent = owner.replace(str(os.getpid()), str(os.getppid()))
    (tmp_path / "run" / "lock").write_text(parent)
    assert is_in_use(tmp_path / "run")
    with pytest.raises(UsageError, match=f"is in use by process {os.getppid()} on"):
        RunFolder(tmp_path / "run")
    (tmp_path / "run" / "lock").write_text(owner.replace(str(os.getpid()), str(2**30)))
    RunFolder(tmp_path / "run").close()
    folder.close()


def test_a_run_that_failed_at_once_leaves_the_folder_to_the_corrected_command(
    tmp_path, monkeypatch
):
    options = {name: value for name, value in OPTIONS.items() if name != "algorithm"}
    options |= {"run_dir": tmp_path, "iterations": 1, "eval_every": 0}

    def failing(_):
        raise UsageError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(MAMLLearner, "iterate", failing)
        with pytest.raises(UsageError, match="a mistake"):
            run.train(Config.of("maml-pg", **options, inner_lr=9.0))
    learner = run.train(Config.of("maml-pg", **options))
    assert learner.iteration == 1
    with pytest.raises(UsageError, match="holds a run: --resume continues it"):
        run.train(Config.of("maml-pg", **options))
