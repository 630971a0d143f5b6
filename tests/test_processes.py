"""Worker processes: the results of one process, and an end to every call."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from metarl import Config, Learner
from metarl.simulation.gymnasium import Processes, make_simulation
from metarl.simulation.serial import SerialVectorEnv
from metarl.support.errors import WorkerError
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


def rollout(env):
    """Two episodes with a partial reset between, under changing tasks."""
    env.task = {"goal": np.linspace(-1, 0.8, 5)}
    record = [env.reset(seed=[3, 4, 5, 6, 7])[0]]
    generator = np.random.default_rng(0)
    for t in range(14):
        record += env.step(generator.uniform(-1, 1, (5, 1)).astype(np.float32))[:4]
        if t == 5:
            env.task = {"goal": np.full(5, 0.5)}
            mask = np.array([True, False, False, True, False])
            record.append(env.reset(seed=[9] * 5, options={"reset_mask": mask})[0])
    return record


@pytest.mark.parametrize("number", [1, 2, 8])
def test_any_number_of_processes_gives_the_results_of_one(number):
    family = make_family("faulty_families:Line-v0")
    env = make_simulation(family, 5, processes=Processes(number))
    expected = rollout(SerialVectorEnv(family.make, 5))
    assert len(children()) == min(number, 5)
    for ours, theirs in zip(rollout(env), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < 5
    with pytest.raises(WorkerError, match="closed"):
        env.step(np.zeros((5, 1), np.float32))


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("fails", r"failed:\n(?s:.*)raise ArithmeticError.*\n.*there is no bottom here"),
        ("dies", "died with exit code 7"),
        ("hangs", "gave no answer in 3 s"),
    ],
)
def test_a_worker_that_fails_is_named_with_its_task(fate, message):
    family = make_family("faulty_families:Mortal-v0", fate=fate)
    env = make_simulation(family, 4, processes=Processes(2, timeout=3.0))
    env.task = {"goal": [0.1, 0.2, 0.3, 0.95]}
    env.reset(seed=0)
    start = time.monotonic()
    where = r"worker 1 of 2 in step, at environment 3 with task \{'goal': 0\.95\}, "
    with pytest.raises(WorkerError, match=where + message):
        env.step(np.zeros((4, 1), np.float32))
    assert time.monotonic() - start < 10


def test_a_worker_that_is_killed_from_outside_is_named():
    env = make_simulation(make_family("faulty_families:Line-v0"), 4, processes=Processes(2))
    env.reset(seed=0)
    process = env._workers[0].process
    os.kill(process.pid, signal.SIGKILL)
    process.join(5)
    with pytest.raises(WorkerError, match=r"worker 0 of 2 .* died with exit code -9"):
        env.step(np.zeros((4, 1), np.float32))


def test_what_does_not_pickle_leaves_no_worker_behind():
    family = make_family("faulty_families:Line-v0", reward=lambda x: x)
    with pytest.raises((AttributeError, TypeError), match=r"pickle|local"):
        make_simulation(family, 2, processes=Processes(1))


def test_an_environment_that_cannot_be_made_there_fails_with_its_traceback(monkeypatch):
    family = make_family("faulty_families:OnlyHere-v0")
    monkeypatch.setenv("METARL_TEST_PROCESS", str(os.getpid()))
    with pytest.raises(WorkerError, match=r"in start, (?s:.*)RuntimeError: made elsewhere"):
        make_simulation(family, 2, processes=Processes(1))


def test_a_forgotten_environment_ends_its_workers():
    env = make_simulation(make_family("faulty_families:Line-v0"), 2, processes=Processes(2))
    env.reset(seed=0)
    del env


def test_success_comes_from_the_workers_too():
    family = make_family("faulty_families:Slippery-v0")
    envs = [make_simulation(family, 3, processes=Processes(n)) for n in (0, 2)]
    infos = []
    for env in envs:
        env.task = {"goal": [-0.9, 0.0, 0.9]}
        env.reset(seed=0)
        infos.append(env.step(np.zeros((3, 1), np.float32))[4])
    assert infos[0]["success"].tolist() == infos[1]["success"].tolist() == [0, 1, 0]


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
