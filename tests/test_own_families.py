"""The examples of experiments/own_families keep the contract and train from their folder."""

from pathlib import Path

import pytest
from forked import metarl

FOLDER = Path(__file__).parents[1] / "experiments" / "own_families"
EXAMPLES = ["hill:Hill-v0", "acrobot:AcrobotLinks-v0", "slider:Slider-v0", "cart:Cart-v0"]


@pytest.mark.parametrize("family", EXAMPLES)
def test_the_check_passes(family):
    result = metarl("check", family, cwd=FOLDER)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("family", EXAMPLES)
def test_it_trains(family, tmp_path):
    small = "--iterations 1 --meta-batch-size 2 --episodes 2 --horizon 5 --eval-every 0 --workers 1"
    options = ["--family", family, *small.split(), "--run-dir", tmp_path / "run"]
    result = metarl("train", *options, cwd=FOLDER)
    assert result.returncode == 0, result.stderr
    assert "iteration 1/1" in result.stdout


def test_every_example_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {name.split(":")[0] for name in EXAMPLES}
