"""The benchmarks run; what they measure is for people to look at, on a quiet machine."""

import time

import pytest
import supervised
from documentation import ROOT
from forked import python
from measurements import measured
from scaling import Inputs
from supervised import lines

BENCHMARKS, DOCS = ROOT / "experiments" / "benchmarks", ROOT / "docs"


@pytest.mark.parametrize(
    ("script", "options", "told"),
    [
        ("iteration", "--iterations 1 --warmup 0 --family envs:Navigation2D-v0", "meta_update"),
        ("algorithms", "--rounds 1 --family envs:BernoulliBandit-v0", "maml-trpo"),
        pytest.param(
            "sampling",
            "--tasks 2 --episodes 2 --seconds 0",
            "ratio to the bare batch",
            marks=pytest.mark.slow,  # it starts 24 environments of Gymnasium, twice
        ),
        (
            "families",
            "--families envs:ReacherGoal-v0 --tasks 2 --episodes 2 --horizon 3 --seconds 0",
            "ReacherGoal-v0",
        ),
        (
            "gpu",
            "--worlds 4 --tasks 2 --horizon 3 --rounds 1 --batch-worlds 4 --curve-episodes 2 "
            "--curve-seconds 1 --families HalfCheetahDir --no-deterministic --results /dev/null",
            '{"measured": "HalfCheetahDir curve 2"',
        ),
        pytest.param(
            "ranks",
            "--pairs 1 --iterations 1 --family envs:BernoulliBandit-v0",
            "efficiency",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_benchmark_prints_figures_and_their_limit(script, options, told):
    result = python(BENCHMARKS / f"{script}.py", *options.split(), "--threads", "1")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith(told))
    assert any(word[0].isdigit() for word in line.split())
    assert "limit" in result.stdout


def test_a_measurement_that_fails_takes_no_other_one_along():
    names = ["raises", "well", "dies", "hangs", "last"]
    begin = time.time()
    found = list(lines(measured, names, end=begin + 60, silence=2))
    assert [line for _, line in found if "begun" in line] == [{"begun": name} for name in names]
    assert [name for name, line in found if "done" in line] == ["well", "last"]
    assert {name: line["failed"] for name, line in found if "failed" in line} == {
        "raises": "ValueError: no such family",
        "dies": "its process ended",
        "hangs": "no line for 2 s",
    }
    assert time.time() - begin < 30


def test_nothing_begins_after_the_end(monkeypatch):
    monkeypatch.setattr(supervised, "GRACE", 0.5)
    names = ["hangs", "well"]
    found = dict(lines(measured, names, end=time.time() + 2, silence=60))
    assert "failed" in found["hangs"]
    assert found["well"] == {"left out": "no time was left"}
    none = list(lines(measured, names, end=time.time(), silence=60))
    assert none == [(name, {"left out": "no time was left"}) for name in names]


LIMIT = "limit: efficiency of at least 0.9 with 2 processes; expected"


@pytest.mark.slow
def test_the_model_of_many_hosts_is_measured(tmp_path):
    own = str(tmp_path / "inputs.json")
    tiny = ("--measure-tasks", "4", "8", "--episodes", "2", "--rounds", "1", "--inputs", own)
    measured = python(str(BENCHMARKS / "scaling.py"), *tiny)
    assert measured.returncode == 0, measured.stderr
    assert LIMIT in measured.stdout


def test_the_model_of_many_hosts_gives_the_table_of_the_documentation():
    committed = python(str(BENCHMARKS / "scaling.py"))
    assert committed.returncode == 0, committed.stderr
    assert LIMIT in committed.stdout
    table = [line for line in committed.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert "\n".join(table) in (DOCS / "how-to" / "several-machines.md").read_text()


def test_the_model_of_many_hosts_agrees_with_arithmetic():
    inputs = Inputs(
        fixed=1.0, task=0.5, collectives=10, bytes_fixed=0.0, bytes_task=1.25e9, step=0.1
    )
    # 40 tasks are 10 chunks of 4; of 8 hosts, two have 2 chunks. A message passes 7 hosts.
    assert inputs.seconds(40, 1) == 21.0
    assert inputs.seconds(40, 8) == pytest.approx(1.0 + 8 * 0.5 + 7 * (1.0 + 8.0))
    assert inputs.after_messages(40, 0.2) == pytest.approx(21.0 / 24.0)
    assert inputs.efficiency(40, 8) == pytest.approx(21.0 / (8 * 68.0))
