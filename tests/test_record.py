import hashlib
import json
import logging
import multiprocessing
import shutil

import numpy as np
import pytest
import torch

from metarl.runs import checkpoint
from metarl.runs.display import Display
from metarl.runs.folder import RunFolder
from metarl.support.errors import UsageError

STATE = {"parameters": {"w": torch.arange(3.0)}, "iteration": 7, "seconds": 1.5}


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 7, STATE)
    state = checkpoint.load_newest(tmp_path)
    assert torch.equal(state.pop("parameters")["w"], STATE["parameters"]["w"])
    assert state == {"iteration": 7, "seconds": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["000007"]


def test_a_checkpoint_of_the_same_iteration_is_replaced(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 7, STATE)
    checkpoint.save_checkpoint(tmp_path, 7, STATE | {"seconds": 9.0})
    assert checkpoint.load_newest(tmp_path)["seconds"] == 9


MANIFESTS = {
    "without files": "{}",
    "another type": "[1, 2]",
    "a number": "7",
    "files of another type": '{"files": 3}',
    "nested": "[" * 100_000 + "]" * 100_000,
}


@pytest.mark.parametrize("damage", ["flip", "truncate", "no manifest", "no state", *MANIFESTS])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, damage, caplog):
    checkpoint.save_checkpoint(tmp_path, 7, STATE)
    newest = checkpoint.save_checkpoint(tmp_path, 8, STATE | {"iteration": 8})
    data = (newest / checkpoint.STATE).read_bytes()
    if damage == "flip":
        (newest / checkpoint.STATE).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncate":
        (newest / checkpoint.STATE).write_bytes(data[:100])
    elif damage == "no manifest":
        (newest / checkpoint.MANIFEST).unlink()
    elif damage == "no state":  # whole, but not what torch can read
        (newest / checkpoint.STATE).write_bytes(b"x" * 100)
        digest = hashlib.sha256(b"x" * 100).hexdigest()
        manifest = {"files": {checkpoint.STATE: {"sha256": digest}}}
        (newest / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    else:
        (newest / checkpoint.MANIFEST).write_text(MANIFESTS[damage])
    with pytest.raises(UsageError, match="000008"):
        checkpoint.load_checkpoint(newest)
    assert checkpoint.load_newest(tmp_path)["iteration"] == 7
    assert "000008" in caplog.text
    shutil.rmtree(tmp_path / "000007")
    with pytest.raises(UsageError, match=r"no checkpoint in .* is intact"):
        checkpoint.load_newest(tmp_path)


def test_checkpoints_are_ordered_by_their_iterations_and_other_folders_are_none(tmp_path):
    for iteration in (999_990, 1_000_000, 20):
        checkpoint.save_checkpoint(tmp_path, iteration, STATE | {"iteration": iteration})
    (tmp_path / "2026-backup").mkdir()
    assert checkpoint.load_newest(tmp_path)["iteration"] == 1_000_000
    checkpoint.prune_checkpoints(tmp_path, 1, None)
    assert {path.name for path in tmp_path.iterdir()} == {"1000000", "2026-backup"}


def test_what_was_not_finished_is_not_a_checkpoint(tmp_path, monkeypatch):
    checkpoint.save_checkpoint(tmp_path, 7, STATE)

    def die(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_checkpoint(tmp_path, 8, STATE)
    monkeypatch.undo()
    assert checkpoint.load_newest(tmp_path)["iteration"] == 7
    checkpoint.save_checkpoint(tmp_path, 8, STATE | {"iteration": 8})
    assert checkpoint.load_newest(tmp_path)["iteration"] == 8


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load_newest(tmp_path / "checkpoints") is None


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_after_the_checkpoint_are_dropped_and_a_cut_line_too(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open({"config": {}}, 0, "return", 1)
    for i in range(1, 4):
        folder.write({"iteration": i, "return/before": float(i)})
    folder.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 4, "ret')
    folder = RunFolder(tmp_path)
    assert folder.has_run
    folder.open({"config": {}}, 2, "return", 1)
    folder.write({"iteration": 3, "return/before": 30.0})
    folder.close()
    assert [m["return/before"] for m in lines(tmp_path)] == [1, 2, 30]


def hold(path, held, release):
    folder = RunFolder(path)
    held.set()
    release.wait(30)
    folder.close()


def test_a_folder_in_use_by_another_process_is_an_error(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, release))
    process.start()
    try:
        assert held.wait(60)
        with pytest.raises(UsageError, match=f"is in use by process {process.pid}"):
            RunFolder(tmp_path)
    finally:
        release.set()
        process.join()
    RunFolder(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"run folder .*file/run cannot be written: Not a dir"):
        RunFolder(tmp_path / "file" / "run")


METRICS = {
    "iteration": 3,
    "return/before": -1.0,
    "return/after": 25.25,
    "throughput/env_steps_per_second": 41234.0,
}


def test_outside_a_terminal_an_iteration_is_one_plain_line(capsys):
    display = Display(10)
    display.update(METRICS, 125)
    display.close()
    assert capsys.readouterr().out == (
        "iteration 3/10  before -1  after 25.25  41,234 steps/s  left 2:05\n"
    )


def test_in_a_terminal_there_is_a_live_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    display = Display(10)
    display.update(METRICS, 125)
    display.close()
    output = capsys.readouterr().out
    assert "3/10" in output
    assert "25.2" in output
    assert "41,234 steps/s" in output


def test_the_bar_moves_within_an_iteration(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    display = Display(10, 2)
    completed = lambda: display._live.tasks[0].completed  # noqa: E731
    reached = [completed()]
    for stage in (0, 1):
        display.on_rollout(stage)
        reached.append(completed())
    assert reached[0] == 2
    assert sorted(set(reached)) == reached
    assert reached[-1] < 3  # the update is still to come
    display.update(METRICS, 125)
    assert completed() == 3
    display.on_rollout(0)
    assert completed() == pytest.approx(3 + 1 / 3)  # two rollouts and an update, as before
    display.close()


def test_the_library_configures_no_logging():
    assert not logging.getLogger("metarl").handlers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": {"best": [1.0, object()]}}, "memory.best.1 is <object "),
        ({"counts": np.zeros(3)}, "counts is an array [3] of float64"),
        ({"iteration": 6}, "it is that of iteration 6"),
        ({"iteration": None}, "iteration is None, not a whole number"),
    ],
)
def test_a_state_that_could_not_be_read_again_is_not_written(changes, message, tmp_path):
    with pytest.raises(UsageError) as error:
        checkpoint.save_checkpoint(tmp_path, 7, STATE | changes, check=True)
    assert str(error.value).startswith(f"no checkpoint can hold the state: {message}")
    assert not list(tmp_path.iterdir())
