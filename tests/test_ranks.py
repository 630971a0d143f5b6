"""Several processes under torchrun: the bits of one, one folder, one message, and none left."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from documentation import ROOT
from network import ENVIRONMENT

from metarl.cli.main import main
from metarl.learners.presets import ALGORITHMS
from metarl.runs.checkpoint import load_newest

MAML = (
    *("--family", "envs:HalfCheetahDir-v0", "--meta-batch-size", "8", "--episodes", "3"),
    *("--horizon", "15", "--iterations", "3", "--hidden-sizes", "16"),
    *("--eval-every", "2", "--eval-tasks", "6", "--checkpoint-every", "1"),
    *("--task-choice", "hard"),
)
INFO = ("--info-metrics", "velocity", "velocity:mean")
RL2 = (
    *("--learner", "rl2", "--family", "envs:HalfCheetahDir-v0", "--trials", "10"),
    *("--episodes", "2", "--horizon", "15", "--hidden-size", "16", "--minibatches", "2"),
    *("--iterations", "2", "--eval-every", "2", "--eval-tasks", "4", "--eval-trials", "2"),
    *("--checkpoint-every", "1", "--task-choice", "hard", *INFO),
)


def start(ranks, command, *arguments, cwd, options=()):
    """torchrun with so many processes, which run `-m MODULE` or a script."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", *options),
            *("--nproc-per-node", str(ranks), *command, *map(str, arguments)),
        ],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=300):
    """(exit status, output, errors) at the end of torchrun."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


def train(ranks, *arguments, cwd, options=()):
    """The output of a run that must succeed."""
    process = start(ranks, ("-m", "metarl"), "train", *arguments, cwd=cwd, options=options)
    status, output, errors = finish(process)
    assert status == 0, output + errors
    return output


def numbers(folder):
    """All that a run computed: its metrics without times, and a digest of its newest state."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    timed = ("time/", "throughput/", "seconds")
    metrics = [
        {name: value for name, value in json.loads(line).items() if not name.startswith(timed)}
        for line in lines
    ]
    state = load_newest(folder / "checkpoints")
    del state["seconds"], state["config"]  # which says in what folder, and how it was begun
    return metrics, digest(state)


def digest(state):
    """A digest of every tensor and number in nested containers."""
    found = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            found.update(value.numpy().tobytes())
        elif isinstance(value, dict):
            for name, item in value.items():
                found.update(str(name).encode())
                add(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    add(state)
    return found.hexdigest()


def alone(tmp_path, *arguments):
    """The numbers of the run in one process."""
    main(["train", *arguments, "--threads", "2", "--run-dir", str(tmp_path / "alone")])
    return numbers(tmp_path / "alone")


def test_two_processes_compute_what_one_does_and_one_goes_on_where_they_stopped(tmp_path):
    expected = alone(tmp_path, *MAML, *INFO)
    output = train(2, *MAML, *INFO, "--iterations", "2", "--run-dir", "run", cwd=tmp_path)
    assert output.count("iteration 2/2") == output.count("next: metarl evaluate") == 1
    main(["train", "--resume", "--run-dir", str(tmp_path / "run"), "--iterations", "3"])
    assert numbers(tmp_path / "run") == expected
    assert len(list((tmp_path / "run").glob("events*"))) == 2


@pytest.mark.ranks
def test_an_error_is_told_once_with_the_process_that_met_it(tmp_path):
    main(["train", *MAML, "--iterations", "1", "--run-dir", str(tmp_path / "run")])
    process = start(
        *(2, ("-m", "metarl"), "train", *MAML, "--run-dir", "run"),
        cwd=tmp_path,
        options=("--max-restarts", "1"),
    )
    status, _, errors = finish(process)
    assert status == 1
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 2  # once in each of two attempts: a new start must not continue that run
    assert all(line.startswith("error: rank 0 on ") for line in told)
    assert all("run folder run holds a run" in line for line in told)


@pytest.mark.ranks
def test_more_processes_than_an_evaluation_has_groups_are_refused_before_training(tmp_path):
    arguments = (*MAML, "--eval-tasks", "2", "--run-dir", "run")
    process = start(3, ("-m", "metarl"), "train", *arguments, cwd=tmp_path)
    status, _, errors = finish(process)
    assert status == 1
    assert "--eval-tasks 2: 3 processes cannot share 2 tasks" in errors
    assert not (tmp_path / "run").exists()


def children(agent):
    """The processes that torchrun has started, by rank."""
    found = subprocess.run(
        ["ps", "--ppid", str(agent.pid), "-o", "pid="], capture_output=True, text=True
    )
    pids = [int(pid) for pid in found.stdout.split()]
    return {rank_of(pid): pid for pid in pids}


def rank_of(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if entry)
    except OSError:  # it has ended in the meantime
        return -1
    return int(variables.get(b"RANK", -1))


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.mark.ranks
def test_a_signal_to_one_process_ends_all_with_a_checkpoint(tmp_path):
    long = (*MAML, "--iterations", "1000", "--eval-every", "0", "--checkpoint-every", "1000")
    process = start(2, ("-m", "metarl"), "train", *long, "--run-dir", "run", cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
    os.kill(children(process)[1], signal.SIGTERM)
    status, output, errors = finish(process)
    assert status == 1  # torchrun's own
    done = len(metrics.read_text().splitlines())
    assert f"stopped after iteration {done}; --resume continues from there" in output
    assert load_newest(tmp_path / "run" / "checkpoints")["iteration"] == done
    assert "error: " not in errors


FAMILIES = {2: "HalfCheetahDir", 3: "HopperParams", 4: "Navigation2D"}


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", FAMILIES)
def test_every_learner_computes_the_same_with_any_number_of_processes(tmp_path, ranks):
    family = ("--family", f"envs:{FAMILIES[ranks]}-v0")
    runs = {name: (*MAML, *family, "--algorithm", name) for name in ALGORITHMS}
    runs |= {"normalised": (*MAML, "--normalise-observations", "--normalise-rewards"), "rl2": RL2}
    commands = [["train", *options, "--run-dir", name] for name, options in runs.items()]
    script = tmp_path / "many.py"  # all in the same processes, whose start takes longest
    script.write_text(f"from metarl.cli.main import main\nfor c in {commands}: main(c)\n")
    status, output, errors = finish(start(ranks, (str(script),), cwd=tmp_path), 600)
    assert status == 0, output + errors
    for name, options in runs.items():
        folder = str(tmp_path / "alone" / name)
        main(["train", *options, "--threads", "2", "--run-dir", folder])
        assert numbers(tmp_path / name) == numbers(tmp_path / "alone" / name), name


@pytest.mark.ranks
def test_a_run_begun_with_two_processes_goes_on_with_three(tmp_path):
    expected = alone(tmp_path, *MAML)
    train(2, *MAML, "--iterations", "1", "--run-dir", "run", cwd=tmp_path)
    train(3, "--resume", "--run-dir", "run", "--iterations", "3", cwd=tmp_path)
    assert numbers(tmp_path / "run") == expected


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_few_shot_learning_computes_the_same_with_any_number_of_processes(tmp_path, ranks):
    options = ("--iterations", "4", "--eval-every", "2", "--eval-tasks", "9")
    script = ROOT / "experiments" / "sinusoid.py"
    for number in (1, ranks):
        process = start(number, (str(script),), *options, "--run-dir", number, cwd=tmp_path)
        status, output, errors = finish(process)
        assert status == 0, output + errors
        assert output.count("iteration 4/4") == 1
    assert numbers(tmp_path / str(ranks)) == numbers(tmp_path / "1")


@pytest.mark.ranks
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_run_whose_processes_are_killed_ends_as_if_undisturbed(tmp_path, victim):
    """Ten times each, at random moments: torchrun starts all again from the newest checkpoint."""
    options = (*MAML, "--iterations", "12")
    expected = alone(tmp_path, *options)
    generator, process, kills = random.Random(victim), None, 0
    while kills < 10:
        process = start(
            *(3, ("-m", "metarl"), "train", "--resume", *options, "--run-dir", "run"),
            cwd=tmp_path,
            options=("--max-restarts", "2"),
        )
        for _ in range(2):
            time.sleep(generator.uniform(6, 14))
            if process.poll() is None and (pid := children(process).get(victim)):
                os.kill(pid, signal.SIGKILL)
                kills += 1
        started = set(children(process).values())
        status, output, errors = finish(process)
        assert status == 0, output + errors
        assert not any(os.path.exists(f"/proc/{pid}") for pid in started)
        assert numbers(tmp_path / "run") == expected
        if kills < 10:
            subprocess.run(["rm", "-r", "run"], cwd=tmp_path, check=True)


def start_on(hosts, *arguments, cwd, options=(), first=None):
    """torchrun on each host, with a process each, for one run; they meet at the first host."""
    command = [*options, "-m", "metarl", "train", *arguments, "--run-dir", "run"]
    return [
        subprocess.Popen(
            host.torchrun(sys.executable, first or hosts[0], command),
            cwd=cwd,
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in hosts
    ]


@pytest.mark.ranks
def test_two_hosts_compute_what_one_process_does(tmp_path, hosts):
    expected = alone(tmp_path, *MAML)
    agents = start_on(hosts, *MAML, cwd=tmp_path)
    results = [finish(agent) for agent in agents]
    assert [status for status, *_ in results] == [0, 0], results
    assert numbers(tmp_path / "run") == expected


@pytest.mark.ranks
def test_when_a_host_fails_the_other_ends_and_both_go_on_later(tmp_path, hosts):
    """torchrun itself is killed on the second host, and all that it has started."""
    options = (*MAML, "--iterations", "12", "--rank-timeout", "20")
    expected = alone(tmp_path, *options)
    agents = start_on(hosts, *options, cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
    left = children(agents[0])
    for pid in (*children(agents[1]).values(), agents[1].pid):
        os.kill(pid, signal.SIGKILL)
    status, _, errors = finish(agents[0], timeout=120)
    finish(agents[1])
    assert status == 1
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert "lost another process of torchrun" in told[0]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in left.values())
    results = [finish(agent) for agent in start_on(hosts, "--resume", *options, cwd=tmp_path)]
    assert [status for status, *_ in results] == [0, 0], results
    assert numbers(tmp_path / "run") == expected


@pytest.mark.ranks
def test_a_new_torchrun_takes_the_place_of_one_that_was_killed(tmp_path, hosts, monkeypatch):
    """Only torchrun dies on the second host: its process is left, and ends without it."""
    # Otherwise torchrun's agents meet in a store that a new one cannot find the others in.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    options = (*MAML, "--iterations", "80", "--eval-every", "50", "--rank-timeout", "20")
    expected = alone(tmp_path, *options)
    again = ("--max-restarts", "2")
    agents = start_on(hosts, "--resume", *options, cwd=tmp_path, options=again)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
    (left,) = children(agents[1]).values()
    agents[1].kill()
    agents[1].wait()
    started = start_on(hosts[1:], "--resume", *options, cwd=tmp_path, options=again, first=hosts[0])
    results = [finish(agent) for agent in (agents[0], *started)]
    agents[1].communicate()
    assert [status for status, *_ in results] == [0, 0], results
    assert not os.path.exists(f"/proc/{left}")
    assert numbers(tmp_path / "run") == expected


@pytest.mark.ranks
def test_a_process_that_hangs_is_found_by_the_time_limit(tmp_path):
    (tmp_path / "hang.py").write_text(
        """
import os
import time

import envs
import metarl.sampling.rollout as rollout

collect = rollout.collect

def hanging(*arguments):
    if os.environ["RANK"] == "1":
        time.sleep(1000)
    return collect(*arguments)

import metarl.learners.learner
metarl.learners.learner.collect = hanging
"""
    )
    options = (*MAML, "--rank-timeout", "5", "--family", "hang:HalfCheetahDir-v0")
    process = start(2, ("-m", "metarl"), "train", *options, "--run-dir", "run", cwd=tmp_path)
    status, _, errors = finish(process, timeout=120)
    assert status == 1
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert "lost another process of torchrun" in told[0]


@pytest.mark.ranks
def test_two_machines_share_the_runs_of_a_comparison(tmp_path, hosts):
    options = (
        *("--family", "envs:Navigation2D-v0", "--algorithms", "maml-pg", "reptile", "--seeds", "3"),
        *("--iterations", "40", "--meta-batch-size", "4", "--episodes", "4", "--eval-tasks", "4"),
        *("--processes", "1", "--run-dir", "shared"),
    )

    def compare(host):
        command = host.command([sys.executable, "-m", "metarl", "compare", *options])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, **pipes)

    machines = [compare(host) for host in hosts]
    results = [finish(machine) for machine in machines]
    runs = list(tmp_path.glob("shared/*/seed-*"))
    assert len(runs) == 6
    for folder in runs:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == list(range(1, len(lines) + 1))
    for status, _, errors in results:
        assert status == 0 or "is in use by another process" in errors
    status, output, errors = finish(compare(hosts[0]))
    assert status == 0, output + errors
    assert output.count("finished before") == 6
    assert "reptile" in output
