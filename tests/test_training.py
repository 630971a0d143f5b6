"""Runs from end to end: what they record, how they resume, and how they stop."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import Config, Learner, UsageError, train
from metarl.runs import run as training
from metarl.runs.checkpoint import load_newest
from metarl.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = Config(
    family="envs:Navigation2D-v0",
    iterations=4,
    meta_batch_size=3,
    episodes=4,
    horizon=12,
    hidden_sizes=(8,),
    eval_every=2,
    eval_tasks=5,
    checkpoint_every=2,
    device="cpu",
)

KEYS = {
    *("iteration", "env_steps", "seconds", "return/before", "return/after", "return/gain"),
    *("return/step_0", "return/step_1", "outer/kl", "outer/surrogate", "outer/accepted"),
    *("time/sampling", "time/adaptation", "time/meta_update"),
    "throughput/env_steps_per_second",
}
EVALUATION_KEYS = {f"test/step_{k}/{s}" for k in (0, 1) for s in ("mean", "iqm", "low", "high")}


def small(path, **changes):
    return dataclasses.replace(SMALL, run_dir=path, **changes)


def metrics_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def without_times(metrics):
    timed = ("seconds", "time/", "throughput/")
    return [{k: v for k, v in m.items() if not k.startswith(timed)} for m in metrics]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    return train(small(path)), path


def test_the_metrics_have_the_documented_keys(finished):
    _, path = finished
    metrics = metrics_of(path)
    assert [m["iteration"] for m in metrics] == [1, 2, 3, 4]
    for m in metrics:
        assert set(m) >= KEYS
        assert (set(m) >= EVALUATION_KEYS) == (m["iteration"] % 2 == 0)
        assert all(math.isfinite(value) for value in m.values())
        assert m["return/gain"] == pytest.approx(m["return/after"] - m["return/before"])
        assert m["return/before"] == m["return/step_0"]
        assert m["return/after"] == m["return/step_1"]
        assert 0 <= m["outer/kl"] <= SMALL.max_kl
    # Episodes of at most 12 steps, before and after, in 4 episodes of 3 tasks.
    assert 0 < metrics[-1]["env_steps"] <= 4 * 2 * 3 * 4 * 12


def test_tensorboard_shows_the_same_numbers(finished):
    _, path = finished
    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    metrics = metrics_of(path)
    for tag in set(metrics[-1]) - {"iteration"}:
        ours = [(m["iteration"], m[tag]) for m in metrics if tag in m]
        shown = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in shown] == [step for step, _ in ours], tag
        np.testing.assert_allclose([v for _, v in shown], [v for _, v in ours], rtol=1e-6)


def test_the_file_of_events_grows_as_the_docs_say(tmp_path):
    sizes = []
    for iterations in (1, 5):
        folder = tmp_path / str(iterations)
        train(small(folder, iterations=iterations, eval_every=0))
        sizes.append(sum(path.stat().st_size for path in folder.glob("events*")))
    names = [name for name in metrics_of(folder)[-1] if name != "iteration"]
    names += ["adaptation/before", "adaptation/after"]
    bound = 4 * sum(40 + len(name) for name in names)
    assert 0.8 * bound < sizes[1] - sizes[0] <= bound
    assert bound / 4 < 1_500


def test_long_runs_show_figures_at_growing_intervals():
    shown = [number for number in range(1, 1001) if training.has_figures(number)]
    assert shown[:16] == list(range(1, 17))
    assert shown[16:24] == list(range(18, 34, 2))
    assert shown[24:32] == list(range(36, 68, 4))
    assert len(shown) < 16 + 8 * math.log2(1000 / 16) + 1


def test_the_configuration_says_what_ran(finished):
    _, path = finished
    config = json.loads((path / "config.json").read_text())
    assert config["config"]["meta_batch_size"] == 3
    assert config["config"]["horizon"] == 12
    assert config["family"]["options"] == {
        "action_scale": 0.1,
        "goal_range": 0.5,
        "variant": "dense",
    }
    assert config["versions"]["torch"] == version("torch")  # `__version__` may add the build
    assert config["device"]["learner"] == "cpu"


def test_a_resumed_run_is_the_same_run(finished, tmp_path):
    learner, path = finished
    train(small(tmp_path / "run", iterations=2))
    resumed = train(small(tmp_path / "run", resume=True))
    for name, value in learner.parameters.items():
        assert torch.equal(value, resumed.parameters[name])
    assert without_times(metrics_of(tmp_path / "run")) == without_times(metrics_of(path))
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("return/after")] == [1, 2, 3, 4]
    seconds = [metrics["seconds"] for metrics in metrics_of(tmp_path / "run")]
    assert seconds == sorted(seconds), "a resumed run counts from its own beginning"


def test_a_crash_between_checkpoints_loses_nothing_that_matters(finished, tmp_path, monkeypatch):
    _, path = finished
    iterate = Learner.iterate

    def crash_in_the_fourth(learner):
        if learner.iteration == 3:
            raise RuntimeError("power cut")
        return iterate(learner)

    monkeypatch.setattr(Learner, "iterate", crash_in_the_fourth)
    with pytest.raises(RuntimeError, match="power cut"):
        train(small(tmp_path))
    assert len(metrics_of(tmp_path)) == 3
    monkeypatch.undo()
    train(small(tmp_path, resume=True))
    assert without_times(metrics_of(tmp_path)) == without_times(metrics_of(path))


def test_evaluation_disturbs_no_training_number(finished, tmp_path):
    _, path = finished
    train(small(tmp_path, eval_every=0))
    bare = [
        {k: v for k, v in m.items() if not k.startswith("test/")}
        for m in without_times(metrics_of(path))
    ]
    assert without_times(metrics_of(tmp_path)) == bare


def test_threads_change_no_number(finished, tmp_path):
    learner, _ = finished
    other = train(small(tmp_path, threads=1))
    for name, value in learner.parameters.items():
        assert torch.equal(value, other.parameters[name])


def test_an_existing_run_is_not_overwritten(finished):
    _, path = finished
    before = (path / "metrics.jsonl").read_bytes(), (path / "config.json").read_bytes()
    with pytest.raises(UsageError, match="holds a run: --resume continues it"):
        train(small(path))
    with pytest.raises(UsageError, match=r"the run has --inner-lr 0\.1, not 0\.2"):
        train(small(path, resume=True, inner_lr=0.2))
    after = (path / "metrics.jsonl").read_bytes(), (path / "config.json").read_bytes()
    assert before == after


def test_a_finished_run_resumes_to_nothing(finished, tmp_path):
    train(small(tmp_path, iterations=1))
    before = metrics_of(tmp_path)
    train(small(tmp_path, iterations=1, resume=True))
    assert metrics_of(tmp_path) == before


ENDLESS = (
    *("--family", SMALL.family, "--iterations", "100000", "--checkpoint-every", "100000"),
    *("--meta-batch-size", "2", "--episodes", "2", "--horizon", "5", "--eval-every", "0"),
)


def heed_closed_terminals():
    """In a new process: `nohup`, which may have started the tests, hands down to ignore them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


HANGING = """
import gymnasium, time
from pathlib import Path

class Hanging(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("envs:CartPoleParams-v0"))
        self.steps = 0

    def step(self, action):
        self.steps += 1
        while self.steps > 20:
            Path("hangs").touch()
            time.sleep(1)
        return self.env.step(action)

gymnasium.register("Hanging-v0", Hanging, max_episode_steps=100)
"""


def is_alive(process):
    status = Path("/proc", process, "status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.parametrize(("workers", "signals"), [(0, 1), (2, 1), (0, 2)])
def test_a_signal_ends_a_run_whose_environment_hangs(tmp_path, workers, signals):
    (tmp_path / "hanging.py").write_text(HANGING)
    options = ("--family", "hanging:Hanging-v0", "--horizon", "30", "--workers", str(workers))
    timeout = ("--stop-timeout", "1" if signals == 1 else "300")
    process = subprocess.Popen(
        [sys.executable, "-m", "metarl", "train", *ENDLESS, *options, *timeout, "--run-dir", "run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    while not (tmp_path / "hangs").exists():
        assert process.poll() is None
        time.sleep(0.05)
    pgrep = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    children = pgrep.stdout.split()
    assert bool(children) == bool(workers)
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (128 + signal.SIGTERM if signals == 1 else 130)
    assert "Traceback" not in errors
    assert ("--stop-timeout" in errors) == (signals == 1)
    deadline = time.monotonic() + 10  # multiprocessing's own helpers notice it and end
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_interruption_while_metarl_is_imported_is_one_line(tmp_path):
    code = """if True:
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
        from metarl.cli.main import main

        class Interrupted:
            def find_spec(self, name, path=None, target=None):
                if name == "torch":
                    sys.meta_path.remove(self)
                    signal.raise_signal(signal.SIGINT)

        sys.meta_path.insert(0, Interrupted())
        main(["train", "--family", "envs:Navigation2D-v0"])
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, number):
    command = [sys.executable, "-m", "metarl", "train", *ENDLESS, "--run-dir", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_closed_terminals
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "--resume continues from there" in output
    done = len(metrics_of(tmp_path))
    assert load_newest(tmp_path / "checkpoints")["iteration"] == done


def test_a_closed_terminal_ends_the_run_with_a_checkpoint(tmp_path):
    terminal, its_end = os.openpty()

    def begin():
        os.login_tty(its_end)
        heed_closed_terminals()

    process = subprocess.Popen(
        [sys.executable, "-m", "metarl", "train", *ENDLESS, "--run-dir", str(tmp_path)],
        preexec_fn=begin,
    )
    os.close(its_end)
    file = tmp_path / "metrics.jsonl"
    while not (file.exists() and file.stat().st_size):
        os.read(terminal, 1000)  # the live line; an error if the program ends
    os.close(terminal)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert load_newest(tmp_path / "checkpoints")["iteration"] == len(metrics_of(tmp_path))


@pytest.mark.parametrize(
    "moment", [(Learner, "iterate"), (RunFolder, "write"), (RunFolder, "save")]
)
def test_a_signal_at_any_moment_loses_no_iteration(tmp_path, monkeypatch, moment):
    owner, name = moment
    method = getattr(owner, name)

    def interrupted(*arguments):
        result = method(*arguments)
        monkeypatch.setattr(owner, name, method)
        signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(SystemExit):
        train(small(tmp_path, checkpoint_every=1 if name == "save" else 100))
    done = len(metrics_of(tmp_path))
    assert 0 < done < SMALL.iterations
    assert load_newest(tmp_path / "checkpoints")["iteration"] == done


@pytest.mark.parametrize(("gap", "ends_with"), [(60.0, SystemExit), (-1.0, KeyboardInterrupt)])
def test_only_a_late_second_signal_ends_the_run_at_once(tmp_path, monkeypatch, gap, ends_with):
    iterate = Learner.iterate

    def interrupted_twice(learner):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        return iterate(learner)

    monkeypatch.setattr(Learner, "iterate", interrupted_twice)
    monkeypatch.setattr(training, "SAME_REQUEST_SECONDS", gap)
    with pytest.raises(ends_with):
        train(small(tmp_path, checkpoint_every=100))
    assert (load_newest(tmp_path / "checkpoints") is None) == (ends_with is KeyboardInterrupt)


def test_a_run_with_more_iterations_than_are_asked_for_is_left_as_it_is(tmp_path):
    train(small(tmp_path, iterations=2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"has 2 iterations, more than --iterations 1"):
        train(small(tmp_path, iterations=1, resume=True))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_more_inner_steps_are_recorded(tmp_path):
    train(small(tmp_path, iterations=1, inner_steps=3, eval_every=1))
    metrics = metrics_of(tmp_path)[0]
    assert {f"return/step_{k}" for k in range(4)} < set(metrics)
    assert "return/step_4" not in metrics
    assert {f"test/step_{k}/mean" for k in range(4)} < set(metrics)


def test_a_learner_adapts_to_a_given_task():
    learner = Learner(SMALL)
    adapted = learner.adapt({"goal": [0.3, -0.2]}, steps=2)
    assert len(adapted.returns) == 3
    assert adapted.parameters["layer_0.weight"].shape == (2, 8)
    changed = [not torch.equal(p, adapted.parameters[n]) for n, p in learner.parameters.items()]
    assert all(changed)
    with pytest.raises(UsageError, match="task parameter goal = 3 is outside"):
        learner.adapt({"goal": [0.3, 3.0]})


def test_held_out_tasks_stay_the_same_and_are_not_those_of_training():
    learner = Learner(SMALL)
    first = learner.evaluate()
    metrics = learner.iterate()
    second = learner.evaluate()
    assert metrics["iteration"] == 1
    np.testing.assert_array_equal(first.tasks["goal"], second.tasks["goal"])
    assert not np.array_equal(first.returns, second.returns)
    assert learner.evaluate(tasks=2, steps=3, split="beyond").returns.shape == (4, 2)
