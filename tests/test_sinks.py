"""Weights & Biases and MLflow as small fakes: what they are told, and what their errors do."""

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from metarl import Config, Learner, UsageError, load, train
from metarl.cli.main import main
from metarl.runs.folder import CONFIG

SMALL = Config(
    family="envs:Navigation2D-v0",
    iterations=2,
    meta_batch_size=2,
    episodes=2,
    horizon=5,
    hidden_sizes=(4,),
    eval_every=0,
    checkpoint_every=1,
    device="cpu",
)


def small(path, **changes):
    return dataclasses.replace(SMALL, run_dir=path, **changes)


def metrics_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def calls(monkeypatch):
    """What the two packages were called with, as (function, argument, ...)."""
    calls = []
    monkeypatch.delenv("WANDB_PROJECT", raising=False)

    wandb = ModuleType("wandb")

    def init(**options):
        # The writer that is made next is the one that W&B reads along.
        calls.append(("init", options, list(Path(options["name"]).glob("events*"))))
        return SimpleNamespace(
            id=options["id"] or "w1",
            finish=lambda exit_code: calls.append(("finish", exit_code)),
        )

    wandb.init = init
    mlflow = ModuleType("mlflow")

    def start_run(run_id, run_name):
        calls.append(("start_run", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "m1"))

    mlflow.start_run = start_run
    mlflow.log_params = lambda values: calls.append(("log_params", values))
    mlflow.log_metrics = lambda values, step: calls.append(("log_metrics", values, step))
    mlflow.end_run = lambda status: calls.append(("end_run", status))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return calls


def names(calls):
    return [name for name, *_ in calls]


def test_without_sinks_nothing_is_called_and_nothing_written(tmp_path, calls):
    train(small(tmp_path))
    assert calls == []
    assert not list(tmp_path.glob("*.id"))


def test_wandb_reads_along_and_a_resumed_run_goes_on(tmp_path, calls, monkeypatch):
    train(small(tmp_path, iterations=1, sinks=("wandb",)))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    train(small(tmp_path, resume=True, sinks=("wandb",)))
    assert names(calls) == ["init", "finish", "init", "finish"]
    (_, first, events), end, (_, second, _), _ = calls
    assert not events
    assert end == ("finish", 0)
    assert first.pop("config")["meta_batch_size"] == 2
    assert first == {
        "project": "metarl",
        "name": str(tmp_path),
        "id": None,
        "resume": "allow",
        "sync_tensorboard": True,
    }
    assert (second["id"], second["project"]) == ("w1", "mine")


def test_mlflow_has_the_options_and_the_metrics_by_iteration(tmp_path, calls):
    train(small(tmp_path, iterations=1, sinks=("mlflow",)))
    train(small(tmp_path, resume=True, sinks=("mlflow",)))
    once = ["start_run", "log_params", "log_metrics", "end_run"]
    assert names(calls) == [*once, "start_run", "log_metrics", "end_run"]
    start, (_, params), _, end, again, (_, values, step), _ = calls
    assert start == ("start_run", None, str(tmp_path))
    assert again == ("start_run", "m1", str(tmp_path))
    assert params["algorithm"] == "maml-trpo"
    assert {"iteration": step, **values} == metrics_of(tmp_path)[-1]
    assert end == ("end_run", "FINISHED")


def test_a_run_may_change_its_sinks(tmp_path, calls):
    train(small(tmp_path, iterations=1))
    train(small(tmp_path, resume=True, sinks=("wandb", "mlflow", "mlflow")))
    assert names(calls).count("start_run") == names(calls).count("init") == 1


def test_an_unknown_sink_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--family", SMALL.family, "--run-dir", str(tmp_path), "--sinks", "wanbd"])
    assert capsys.readouterr().err == (
        "error: --sinks wanbd must be one of wandb, mlflow, or MODULE:CLASS; did you mean wandb?\n"
    )


def test_a_sink_that_is_not_installed_is_one_line_and_other_sinks_hear_nothing(
    tmp_path, calls, monkeypatch
):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    needed = r'--sinks mlflow needs: pip install "metarl-suite\[mlflow\]"'
    with pytest.raises(UsageError, match=needed):
        train(small(tmp_path, sinks=("wandb", "mlflow")))
    assert calls == []
    assert not (tmp_path / CONFIG).exists()


def refuse(*_arguments, **_options):
    raise ConnectionError("no route\nto host")


def test_a_sink_that_cannot_begin_leaves_the_run_as_it_was(tmp_path, calls, monkeypatch):
    train(small(tmp_path, iterations=1))
    before = {path: path.read_bytes() for path in tmp_path.glob("[cem]*") if path.is_file()}
    monkeypatch.setattr(sys.modules["mlflow"], "start_run", refuse)
    with pytest.raises(UsageError, match=r"--sinks mlflow cannot begin: .* no route to host$"):
        train(small(tmp_path, resume=True, sinks=("wandb", "mlflow")))
    assert before == {path: path.read_bytes() for path in before}
    assert calls[-1] == ("finish", 1)


@pytest.mark.parametrize("function", ["log_metrics", "end_run"])
def test_a_sink_that_fails_later_is_warned_of_once(tmp_path, calls, monkeypatch, caplog, function):
    monkeypatch.setattr(sys.modules["mlflow"], function, refuse)
    train(small(tmp_path, sinks=("mlflow", "wandb")))
    assert len(metrics_of(tmp_path)) == 2
    (record,) = caplog.records
    message = "mlflow gets no more metrics of this run; the run folder has all of them: Connection"
    assert record.getMessage().startswith(message)
    assert calls[-1] == ("finish", 0)


def test_a_run_that_dies_is_said_to_have_failed(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(Learner, "iterate", refuse)
    with pytest.raises(ConnectionError):
        train(small(tmp_path, sinks=("wandb", "mlflow")))
    assert calls[-2:] == [("finish", 1), ("end_run", "FAILED")]


def test_a_run_with_sinks_is_loaded_where_they_are_not_installed(tmp_path, calls, monkeypatch):
    train(small(tmp_path, sinks=("wandb",)))
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert load(tmp_path).config.sinks == ("wandb",)


# The two below tell whether the fakes are like the packages, where those are installed.


@pytest.mark.filterwarnings("default")
def test_wandb_itself_keeps_the_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = tmp_path / "run"
    train(small(run, iterations=1, sinks=("wandb",)))
    train(small(run, resume=True, sinks=("wandb",)))
    name = (run / "wandb.id").read_text().strip()
    assert len(list(tmp_path.glob(f"wandb/offline-run-*/run-{name}.wandb"))) == 2
    # Of a folder in there TensorBoard would make runs of its own.
    assert [path.name for path in run.iterdir() if path.is_dir()] == ["checkpoints"]


@pytest.mark.filterwarnings("default")
def test_mlflow_itself_has_each_iteration_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = tmp_path / "run"
    train(small(run, iterations=1, sinks=("mlflow",)))
    train(small(run, resume=True, sinks=("mlflow",)))
    kept = mlflow.MlflowClient().get_metric_history(
        (run / "mlflow.id").read_text().strip(), "return/after"
    )
    ours = [(m["iteration"], m["return/after"]) for m in metrics_of(run)]
    assert [(metric.step, metric.value) for metric in kept] == ours
