"""What a run folder notices: edits, losses, and a disk that fails."""

import dataclasses
import json
import shutil
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import Config, UsageError, load, train
from metarl.cli.main import main
from metarl.runs import checkpoint as checkpoints
from metarl.runs.checkpoint import MANIFEST, STATE, load_newest, save_checkpoint
from metarl.runs.folder import RunFolder
from metarl.runs.metrics import METRICS, read_metrics
from metarl.runs.tensorboard import event_files
from metarl.studies.curves import group, read_run, training_curves
from metarl.studies.jobs import Job, expect_success
from metarl.support import files
from metarl.tasks.starter import write_family

SMALL = {
    "family": "envs:Navigation2D-v0",
    "horizon": 3,
    "episodes": 2,
    "meta_batch_size": 2,
    "hidden_sizes": (4,),
    "eval_every": 0,
}


def written(path, iterations, after=0):
    """A folder in which a run has done iterations `after` + 1 to `iterations`."""
    folder = RunFolder(path)
    folder.open({"config": {}}, after, "return", 1)
    for i in range(after + 1, iterations + 1):
        folder.write({"iteration": i, "return/before": float(i), "return/after": float(i)})
    return folder


def points(path):
    events = EventAccumulator(str(path)).Reload()
    return [event.step for event in events.Scalars("return/after")]


@pytest.mark.parametrize("jump", [-1e6, 0, 1e6])
def test_tensorboard_shows_each_iteration_once_and_in_order(tmp_path, monkeypatch, jump):
    """Also if the clock was set back, or a run was resumed within the second."""
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start)
    written(tmp_path, 3).close()
    monkeypatch.setattr(time, "time", lambda: start + jump)
    written(tmp_path, 4, after=2).close()
    written(tmp_path, 5, after=4).close()
    assert points(tmp_path) == [1, 2, 3, 4, 5]
    kept = [points(path) for path in event_files(tmp_path)]
    assert kept == [[1, 2], [3, 4], [5]]


def test_half_a_record_is_cut_off(tmp_path):
    written(tmp_path, 3).close()
    (events,) = event_files(tmp_path)
    events.write_bytes(events.read_bytes()[:-5])
    written(tmp_path, 4, after=3).close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("return/before")] == [1, 2, 3, 4]


def test_an_event_file_that_cannot_be_written_does_not_end_the_run(tmp_path, caplog, monkeypatch):
    folder = written(tmp_path, 1)
    (events,) = event_files(tmp_path)
    events.unlink()
    events.mkdir()  # an error for root, too
    for i in (2, 3):
        folder.write({"iteration": i, "return/before": 1.0, "return/after": 1.0})
    folder.close()
    assert caplog.text.count("TensorBoard gets no more of this run (Is a directory)") == 1
    assert [m["iteration"] for m in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("replaced", [False, True])
def test_metrics_that_were_deleted_during_the_run_are_written_again(tmp_path, caplog, replaced):
    folder = written(tmp_path, 2)
    (tmp_path / METRICS).unlink()
    if replaced:
        (tmp_path / METRICS).write_text("")
    folder.write({"iteration": 3, "return/before": 3.0, "return/after": 3.0})
    folder.close()
    assert "was deleted or replaced: it is written again" in caplog.text
    assert [m["iteration"] for m in read_metrics(tmp_path)] == [1, 2, 3]


def test_metrics_wait_for_the_disk(tmp_path, caplog):
    folder = written(tmp_path, 1)
    real = folder._metrics._file

    class Full:
        def __getattr__(self, name):
            return getattr(real, name)

        def write(self, data):
            return real.write(data[:3])  # as a disk that becomes full

    folder._metrics._file = Full()
    for i in (2, 3):
        folder.write({"iteration": i, "return/before": 1.0, "return/after": 1.0})
    assert caplog.text.count("cannot be written (No space left on device)") == 1
    with pytest.raises(UsageError, match=r"metrics\.jsonl cannot be written: No space left"):
        folder.save(3, {"iteration": 3})
    folder._metrics._file = real
    folder.save(3, {"iteration": 3})
    folder.close()
    assert [m["iteration"] for m in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"iteration": true}', b"\xff", b"[" * 100_000])
def test_a_damaged_line_of_metrics_is_named_and_blocks_no_resume(tmp_path, caplog, line):
    folder = written(tmp_path, 4)
    folder.save(4, {"iteration": 4})
    folder.close()
    lines = (tmp_path / METRICS).read_bytes().split(b"\n")
    (tmp_path / METRICS).write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(UsageError, match=r"metrics\.jsonl is damaged: line 2: "):
        read_metrics(tmp_path)
    written(tmp_path, 5, after=4).close()
    assert "line 2: " in caplog.text
    assert "has no metrics of 1 iteration before the checkpoint" in caplog.text
    assert [m["iteration"] for m in read_metrics(tmp_path)] == [1, 3, 4, 5]


def test_curves_are_of_the_iterations_that_all_seeds_have(tmp_path):
    for seed in (1, 2):
        written(tmp_path / str(seed), 4).close()
        config = {"config": {"learner": "maml", "family": "hills:Hill-v0", "seed": seed}}
        (tmp_path / str(seed) / "config.json").write_text(json.dumps(config))
    file = tmp_path / "1" / METRICS
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"iteration": 2' not in line))
    (line,) = group([read_run(tmp_path / str(seed)) for seed in (1, 2)])
    curves = training_curves(line)
    assert curves["env_steps"].tolist() == [1, 3, 4]
    assert curves["after"].tolist() == [[1, 3, 4], [1, 3, 4]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(Config(**SMALL, iterations=1, run_dir=folder))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def edit(run, **options):
    content = json.loads((run / "config.json").read_text())
    content["config"] |= options
    (run / "config.json").write_text(json.dumps(content))


def test_an_edited_configuration_is_noticed(run, capsys):
    edit(run, activation="relu", inner_lr=0.2, eval_tasks=7)
    said = r"was trained with --inner-lr 0\.1, not 0\.2; --activation tanh, not relu: correct"
    with pytest.raises(UsageError, match=said):
        load(run)
    for command in (["evaluate"], ["adapt"]):
        with pytest.raises(SystemExit):
            main([*command, str(run)])
        assert "--activation tanh, not relu" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--resume", "--run-dir", str(run), "--iterations", "2"])
    assert "cannot resume: the run has --inner-lr 0.1, not 0.2" in capsys.readouterr().err
    edit(run, activation="tanh", inner_lr=0.1)
    assert load(run).config.eval_tasks == 7  # what may change


@pytest.mark.parametrize("damage", ["none", '{"config": 3}'])
def test_a_lost_configuration_is_that_of_the_checkpoint(run, caplog, damage):
    if damage == "none":
        (run / "config.json").unlink()
    else:
        (run / "config.json").write_text(damage)
    assert load(run).config == load(run).config
    assert load(run).config.hidden_sizes == (4,)
    assert "the options are those of the newest checkpoint" in caplog.text
    main(["train", "--resume", "--run-dir", str(run), "--iterations", "2"])
    assert json.loads((run / "config.json").read_text())["config"]["iterations"] == 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seed", "1", "\"seed\" is '1', not a whole number"),
        ("inner_lr", [0.1], r'"inner_lr" is \[0.1\], not a number'),
        ("hidden_sizes", [4, None], r'"hidden_sizes"\[1\] is None, not a whole number'),
        ("normalise_rewards", 1, '"normalise_rewards" is 1, not true or false'),
        ("activation", "cosine", '"activation" is .cosine., not one of '),
        ("outer", {}, r'"outer" is \{\}, not text'),
        ("learner", 3, "its learner is not text"),
        ("horizon", 2**70, '"horizon" is .*, not a whole number'),
    ],
)
def test_an_option_of_another_type_is_named(run, name, value, said):
    edit(run, **{name: value})
    with pytest.raises(UsageError, match=f"config.json is damaged: {said}"):
        load(run)


def test_an_option_that_is_missing_is_named(run):
    content = json.loads((run / "config.json").read_text())
    del content["config"]["family"]
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r'config.json is damaged: it has no "family"'):
        load(run)


def test_a_checkpoint_of_another_shape_is_named(run):
    folder = run / "checkpoints"
    state = load_newest(folder)
    state["parameters"]["layer_0.weight"] = torch.zeros(3, 4)
    del state["parameters"]["layer_1.bias"]
    save_checkpoint(folder, 1, state)
    said = r"layer_0\.weight is float32 \[3, 4\], not float32 \[2, 4\]; it lacks .*layer_1\.bias"
    with pytest.raises(UsageError, match=said):
        load(run)
    config = Config(**SMALL, iterations=2, run_dir=run, resume=True)
    with pytest.raises(UsageError, match=said):
        train(config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_a_number_that_is_not_finite_is_not_loaded(run, value, monkeypatch):
    state = load_newest(run / "checkpoints")
    state["parameters"]["layer_0.weight"][0, 0] = value
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "expect_finite_state", lambda state: None)
        save_checkpoint(run / "checkpoints", 2, state | {"iteration": 2})
    assert load(run).iteration == 1


def test_a_manifest_names_no_file_elsewhere(run):
    (checkpoint,) = (run / "checkpoints").iterdir()
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    outside = run / "state.pt"
    (checkpoint / STATE).rename(outside)
    manifest["files"]["../../state.pt"] = manifest["files"].pop(STATE)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"no checkpoint in .* is intact"):
        load(run)


def test_unfinished_files_are_removed_on_resume(run):
    (run / "checkpoints" / ".000002.part").mkdir()
    (run / ".config.json.7.part").write_text("")
    train(Config(**SMALL, iterations=1, run_dir=run, resume=True))
    assert not list(run.rglob("*.part"))


def test_a_folder_without_an_iteration_is_no_run_yet(tmp_path):
    """A wrong option that shows in the first iteration can be corrected."""
    written(tmp_path, 0).close()
    train(Config(**SMALL, iterations=1, run_dir=tmp_path))
    with pytest.raises(UsageError, match="holds a run: --resume continues it"):
        train(Config(**SMALL, iterations=1, run_dir=tmp_path))


def test_options_of_a_family_differ_one_by_one(tmp_path):
    family = {"family": "envs:HalfCheetahVel-v0", "horizon": 2, "episodes": 2, "eval_every": 0}
    family |= {"meta_batch_size": 2, "run_dir": tmp_path, "iterations": 1}
    config = Config(**family, policy_options={}, normalise_rewards=False)
    train(config)
    other = dataclasses.replace(config, resume=True, iterations=2, hidden_sizes=(3,))
    with pytest.raises(UsageError, match=r"--hidden-sizes \[64, 64\], not \[3\]"):
        train(other)


def test_a_job_without_a_log_is_one_line(tmp_path):
    """Its process died before it began to write one."""
    job = Job("a, seed 1", print, (), tmp_path / "log.txt")
    with pytest.raises(UsageError, match=r"seed 1 ended with status 1: it has no log .*log\.txt"):
        expect_success({job: 1})


def test_a_new_family_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    replace = files.os.replace

    def full(source, target):
        if target.name.startswith("test_"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(UsageError, match=r"test_found\.py cannot be written: No space left"):
            write_family("Found", tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(write_family("Found", tmp_path)) == 2


def test_an_evaluation_of_other_types_is_one_line(run, tmp_path, capsys):
    (run / "evaluation.json").write_text('{"splits": {"test": {"steps": [], "tasks": [3]}}}')
    with pytest.raises(SystemExit):
        main(["plot", str(run), "--out", str(tmp_path / "figure")])
    (line,) = capsys.readouterr().err.splitlines()
    assert "evaluation.json is damaged: splits.test.tasks[0] is 3, not an object" in line
    assert line.endswith("`metarl evaluate` writes it again")
