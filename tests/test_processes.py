"""Worker processes: the results of one process, and an end to every call."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl import Config, Learner
from metarl.simulation.backends import Processes, make_simulation
from metarl.support.errors import FamilyError, UsageError, WorkerError
from metarl.tasks.family import make_family


def children():
    return [p for p in multiprocessing.active_children() if p.name.startswith("metarl worker")]


@pytest.fixture(autouse=True)
def no_process_stays():
    yield
    deadline = time.monotonic() + 5
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children()


def rollout(simulation):
    """Two lots of episodes, under changing tasks."""
    generator, record = np.random.default_rng(0), []
    for goals, streams in [(np.linspace(-1, 0.8, 5), np.arange(3, 8)), (np.full(5, 0.5), [9] * 5)]:
        record.append(simulation.begin({"goal": goals}, np.array(streams)).clone())
        for _ in range(14):
            actions = generator.uniform(-1, 1, (5, 1)).astype(np.float32)
            step = simulation.step(torch.from_numpy(actions))
            record += [part.clone() for part in step[:5]]
    return record


@pytest.mark.parametrize("number", [1, 2, 8])
def test_any_number_of_processes_gives_the_results_of_one(number):
    family = make_family("faulty_families:Line-v0")
    simulation = make_simulation(family, 5, processes=Processes(number))
    expected = rollout(make_simulation(family, 5))
    assert len(children()) == min(number, 5)
    for ours, theirs in zip(rollout(simulation), expected, strict=True):
        assert torch.equal(ours, theirs)
    start = time.monotonic()
    simulation.close()
    assert time.monotonic() - start < 5
    with pytest.raises(UsageError, match="closed"):
        simulation.step(torch.zeros(5, 1))


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        (
            "fails",
            r"seed 3, step 0, \S+:157\) failed: ArithmeticError: there .* \(\S+:163, in step\)",
        ),
        ("dies", r"seed 3, step 0\): worker 1 of 2 died with exit code 7"),
        ("hangs", r"seed 3, step 0\): worker 1 of 2 gave no answer in 3 s \(\S+:162, in step\)"),
    ],
)
def test_a_worker_that_fails_is_named_with_its_task(fate, message):
    family = make_family("faulty_families:Mortal-v0", fate=fate)
    simulation = make_simulation(family, 4, processes=Processes(2, timeout=3.0))
    simulation.begin({"goal": np.array([0.1, 0.2, 0.3, 0.95])}, np.arange(4))
    start = time.monotonic()
    where = r"faulty_families:Mortal-v0: step \(environment 3, task goal=0\.95, "
    with pytest.raises(FamilyError, match=where + message) as error:
        simulation.step(torch.zeros(4, 1))
    assert time.monotonic() - start < 10
    assert "\n" not in str(error.value)


def test_a_worker_that_is_killed_from_outside_is_named():
    family = make_family("faulty_families:Line-v0")
    simulation = make_simulation(family, 4, processes=Processes(2))
    simulation.begin({"goal": np.zeros(4)}, np.arange(4))
    process = simulation.environments._workers[0].process
    os.kill(process.pid, signal.SIGKILL)
    process.join(5)
    with pytest.raises(WorkerError, match=r"worker 0 of 2 died with exit code -9"):
        simulation.step(torch.zeros(4, 1))


def test_what_does_not_pickle_leaves_no_worker_behind():
    family = make_family("faulty_families:Line-v0", reward=lambda x: x)
    with pytest.raises((AttributeError, TypeError), match=r"pickle|local"):
        make_simulation(family, 2, processes=Processes(1))


def test_an_environment_that_cannot_be_made_there_fails_with_its_traceback(monkeypatch):
    family = make_family("faulty_families:OnlyHere-v0")
    monkeypatch.setenv("METARL_TEST_PROCESS", str(os.getpid()))
    with pytest.raises(FamilyError, match=r"__init__ .* failed: RuntimeError: made elsewhere"):
        make_simulation(family, 2, processes=Processes(1))


def test_a_forgotten_environment_ends_its_workers():
    family = make_family("faulty_families:Line-v0")
    simulation = make_simulation(family, 2, processes=Processes(2))
    simulation.begin({"goal": np.zeros(2)}, np.arange(2))
    del simulation


def test_success_comes_from_the_workers_too():
    family = make_family("faulty_families:Slippery-v0")
    simulations = [make_simulation(family, 3, processes=Processes(n)) for n in (0, 2)]
    told = []
    for simulation in simulations:
        simulation.begin({"goal": np.array([-0.9, 0.0, 0.9])}, np.arange(3))
        told.append(simulation.step(torch.zeros(3, 1)).success.tolist())
    assert told == [[False, True, False]] * 2


def test_training_is_the_same_with_workers():
    options = {
        "meta_batch_size": 2, "episodes": 3, "horizon": 6, "hidden_sizes": (4,), "eval_every": 0,
    }  # fmt: skip
    learners = [
        Learner(Config("faulty_families:Line-v0", **options, workers=workers)) for workers in (0, 2)
    ]
    for learner in learners:
        learner.iterate()
    for name, value in learners[0].parameters.items():
        assert value.equal(learners[1].parameters[name])


JOBS = """
from pathlib import Path
from metarl.studies.jobs import Job, expect_success, run_jobs
expect_success(run_jobs([Job("job", print, (), Path("log.txt"))]))
"""
CHECK = """
import metarl
metarl.check("faulty_families:Line-v0")
"""


@pytest.mark.parametrize("script", [JOBS, CHECK])
@pytest.mark.parametrize("named", [True, False])
def test_a_script_that_its_processes_cannot_import_is_told_so(tmp_path, script, named):
    """It has no guard, or it comes from standard input and cannot be found."""
    (tmp_path / "script.py").write_text(script)
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    result = subprocess.run(
        [sys.executable, "script.py" if named else "-"],
        input=script,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    message = 'below `if __name__ == "__main__":`' if named else "write it to a file"
    last = result.stderr.splitlines()[-1]
    assert last.startswith("metarl.support.errors.ScriptError: the script ")
    assert message in last
