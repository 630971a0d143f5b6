"""The benchmarks run; what they measure is for people to look at, on a quiet machine."""

from pathlib import Path

import pytest
from forked import python

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"


@pytest.mark.parametrize(
    ("script", "options", "told"),
    [
        ("iteration", "--iterations 1 --warmup 0 --family envs:Navigation2D-v0", "meta_update"),
        ("algorithms", "--rounds 1 --family envs:BernoulliBandit-v0", "maml-trpo"),
        ("sampling", "--tasks 2 --episodes 2 --seconds 0", "ratio to the bare batch"),
        (
            "families",
            "--families envs:ReacherGoal-v0 --tasks 2 --episodes 2 --horizon 3 --seconds 0",
            "ReacherGoal-v0",
        ),
        ("ranks", "--pairs 1 --iterations 1 --family envs:BernoulliBandit-v0", "efficiency"),
    ],
)
def test_a_benchmark_prints_figures_and_their_limit(script, options, told):
    result = python(BENCHMARKS / f"{script}.py", *options.split(), "--threads", "1")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith(told))
    assert any(word[0].isdigit() for word in line.split())
    assert "limit" in result.stdout
