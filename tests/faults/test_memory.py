"""What a meta-update takes in memory, how it is bounded, and what follows from too little.

The peak of the meta-update of TRPO is at most, in bytes,

    48 · steps · numbers · (K + 1) · (kept + 2 · at once)

with the steps of a task in a stage (episodes × horizon), the numbers that the policy keeps of a
step (of an MLP, the sum of its hidden sizes and the size of an observation), K inner steps, the
tasks whose graphs are kept for Fisher products (all that a process has, if they are no more than
--task-chunk, and none otherwise), and those that are computed at once (a chunk for each thread).
"""

import copy
import dataclasses
import json
from pathlib import Path

import forked
import pytest
import torch

from metarl import Config, Learner
from metarl.cli.main import main
from metarl.maml.estimators import lvc
from metarl.maml.inner_loop import InnerLoop, adapt
from metarl.maml.meta_objective import BYTES_OF_GRAPH, MetaObjective, policy_objective
from metarl.outer.objective import divergence
from metarl.policies.parameters import expand, flatten
from metarl.support import parallel
from metarl.support.parallel import Shard, Workers

HERE = Path(__file__).parent


@pytest.mark.parametrize("task_chunk", [1, 2, 3])
def test_the_bound_changes_no_gradient(policy, theta, make_random_batch, task_chunk):
    """To 1e-12 where tasks are computed in other company; not a bit where only less is kept."""
    inner = InnerLoop(policy_objective(policy, lvc), 0.3)
    batches = [make_random_batch(0), make_random_batch(1)]
    adapted = inner.path(inner.begin(theta, 3), batches[:-1])[-1]
    direction = {name: torch.ones_like(p) for name, p in theta.items()}

    def results(workers, chunk):
        shard = Shard(3, chunk)
        first = adapt(inner, expand(theta, 3), batches[0], 0, workers, shard)
        objective = MetaObjective(policy, inner, batches, theta, adapted, workers, shard=shard)
        product = objective.curvature(theta, divergence)
        parts = objective.gradient(theta)[1], product(direction), product(direction), first
        return torch.cat([flatten(part) for part in parts])

    chunked = results(Workers(2, task_chunk=task_chunk), task_chunk)
    torch.testing.assert_close(chunked, results(Workers(2), 3), rtol=1e-12, atol=1e-14)
    assert torch.equal(chunked, results(Workers(1), task_chunk))


SMALL = {
    "meta_batch_size": 4, "episodes": 2, "horizon": 5, "hidden_sizes": (8,), "eval_every": 0,
    "device": "cpu",
}  # fmt: skip


def test_a_run_is_the_same_with_less_memory():
    """Chunks have one task here, so that not a bit differs."""
    config = Config("envs:Navigation2D-v0", **SMALL)
    learners = [Learner(dataclasses.replace(config, task_chunk=n)) for n in (0, 1, 2, 4)]
    for learner in learners:
        learner.iterate()
    for learner in learners[1:]:
        for name, p in learners[0].parameters.items():
            assert torch.equal(p, learner.parameters[name])


def test_the_bound_holds_for_what_is_computed_at_once(monkeypatch):
    running, most = [], []

    def busy(item):
        running.append(item)
        most.append(len(running))
        torch.randn(300, 300) @ torch.randn(300, 300)
        running.remove(item)
        return item

    shard = Shard(8, 2)
    found = Workers(4, task_chunk=4).map(busy, range(4), shard=shard)
    assert found == [0, 1, 2, 3]
    assert max(most) <= 2
    assert Workers(1, task_chunk=3).shard(16, 5, torch.device("cpu")).chunk == 3
    assert not Workers(1, task_chunk=3).keeps(4, 0.0, torch.device("cpu"))
    assert Workers(1).keeps(4, 1e3, torch.device("cpu"))
    assert not Workers(1).keeps(4, 1e15, torch.device("cpu"))
    monkeypatch.setattr(parallel, "free_memory", lambda _: 100.0)
    for sharing, kept in ((1, 50), (4, 12)):  # processes of a host
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(sharing))
        assert Workers(1).keeps(kept, 1.0, torch.device("cpu"))
        assert not Workers(1).keeps(kept + 1, 1.0, torch.device("cpu"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB."),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 3221225472 bytes"),
    ],
    ids=["gpu", "numpy", "cpu"],
)
def test_too_little_memory_is_one_line_and_changes_nothing(
    error, tmp_path, monkeypatch, capsys, ended
):
    learner = Learner(Config.of("promp", family="envs:Navigation2D-v0", **SMALL))
    learner.iterate()
    before = copy.deepcopy(learner.state())

    def gradient(objective, *_):
        if objective.tasks:
            raise error

    whole = MetaObjective.means
    monkeypatch.setattr(MetaObjective, "means", gradient)  # after Adam's steps
    with pytest.raises(type(error)):
        learner.iterate()
    after = learner.state()
    assert after["iteration"] == 1
    for name, p in before["parameters"].items():
        assert torch.equal(p, after["parameters"][name])
    moments = [state["outer"]["adam"]["state"][0]["exp_avg"] for state in (before, after)]
    assert torch.equal(*moments)

    arguments = ["--family", "envs:Navigation2D-v0", "--meta-batch-size", "2", "--episodes", "2"]
    arguments += ["--horizon", "3", "--algorithm", "promp", "--run-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as exit:
        main(["train", *arguments, "--iterations", "1", "--device", "cpu"])
    assert exit.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is not enough memory: try a lower --task-chunk, ")
    monkeypatch.setattr(MetaObjective, "means", whole)
    ended("survived")


MEASURE = """
import json, sys
from metarl import Config, Learner
from metarl.maml import meta_objective

def resident(name):
    (line,) = (x for x in open("/proc/self/status") if x.startswith(name))
    return 1024 * int(line.split()[1])

options = json.loads(sys.argv[1])
options["hidden_sizes"] = tuple(options["hidden_sizes"])
learner = Learner(Config("envs:HalfCheetahDir-v0", eval_every=0, device="cpu", fisher_fraction=1.0,
                         cg_iterations=2, line_search_steps=1, **options))
begin, marks = meta_objective.MetaObjective.__init__, {}

def measured(self, *arguments, **options):
    open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    marks["before"] = resident("VmRSS")
    begin(self, *arguments, **options)
    marks["numbers"] = self._numbers_kept
    marks["chunk"] = self._shard.chunk

meta_objective.MetaObjective.__init__ = measured
learner.iterate()
print(json.dumps(marks | {"peak": resident("VmHWM") - marks["before"]}))
"""
OVERHEAD = 40e6
"""Bytes of the allocator and of code that is loaded on the way."""


@pytest.mark.faults
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("task_chunk", [0, 1, 3])
@pytest.mark.parametrize(
    ("tasks", "sizes", "steps"),
    [(6, (256, 256), 1), (12, (128, 128), 1), (6, (256, 256), 2), (6, (512,), 1)],
)
def test_the_peak_is_that_of_the_formula(tasks, sizes, steps, task_chunk, threads, ended):
    options = {
        "meta_batch_size": tasks, "hidden_sizes": sizes, "inner_steps": steps, "horizon": 100,
        "episodes": 10, "task_chunk": task_chunk, "threads": threads,
    }  # fmt: skip
    result = forked.python("-c", MEASURE, json.dumps(options))
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    kept = tasks if task_chunk == 0 or tasks <= task_chunk else 0
    at_once = found["chunk"] * (
        min(threads, max(1, task_chunk // found["chunk"])) if task_chunk else threads
    )
    each = BYTES_OF_GRAPH * 10 * 100 * found["numbers"] * (steps + 1)
    most = each * (kept + 2 * at_once)
    print(f"{options}: {found['peak'] / 1e6:.0f} MB of at most {most / 1e6:.0f}")
    assert found["peak"] <= most + OVERHEAD
    assert found["peak"] >= most / 4 - OVERHEAD, "the formula says much too much"
    ended("survived")


LIMITED = """
import resource, sys
import metarl.learners.maml, envs, mujoco
import torch
torch.randn(500, 500) @ torch.randn(500, 500)
taken = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]),) * 2)
from metarl.cli.main import main
main(sys.argv[2:])
"""


@pytest.mark.faults
def test_a_run_that_is_too_large_goes_on_with_less(tmp_path, ended):
    """For real: the address space of the process is limited."""
    arguments = [
        *("--family", "envs:Navigation2D-v0", "--meta-batch-size", "8", "--episodes", "20"),
        *("--horizon", "100", "--hidden-sizes", "512", "512", "--fisher-fraction", "1"),
        *("--threads", "1", "--device", "cpu", "--eval-every", "0", "--run-dir", "run"),
        *("--cg-iterations", "2", "--line-search-steps", "1"),
    ]
    room = str(1_000_000_000)
    whole = ["train", *arguments, "--iterations", "1", "--task-chunk"]
    result = forked.python("-c", LIMITED, room, *whole, "8", cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: there is not enough memory: try a low")
    again = ["train", *arguments, "--iterations", "1", "--resume", "--task-chunk", "1"]
    result = forked.python("-c", LIMITED, room, *again, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    ended("survived")
