"""Every code block of the README runs, and its files are there."""

import re

import pytest
from documentation import ROOT, blocks, broken_links, commands, run, run_line, train_small

README = (ROOT / "README.md").read_text()
PYTHON = [code for language, code in blocks(README) if language == "python"]


def test_there_is_no_other_kind_of_block():
    assert {language for language, _ in blocks(README)} == {"bash", "python"}
    assert len(PYTHON) == 2
    assert len(commands(README)) == 10


def test_the_own_family_trains_as_the_readme_says(tmp_path):
    (code,) = [code for code in PYTHON if "gymnasium.register" in code]
    (new,) = re.findall(r"`metarl (new-family \S+)`", README)
    run("-m", "metarl", *new.split(), cwd=tmp_path)
    assert (tmp_path / "reach.py").read_text() == code
    (command,) = re.findall(r"`metarl (train --family reach:\S+)`", README)
    small = "--iterations 2 --meta-batch-size 4 --episodes 4 --eval-every 2 --eval-tasks 4"
    output = run("-m", "metarl", *command.split(), *small.split(), cwd=tmp_path)
    assert "iteration 2/2" in output
    assert (tmp_path / "runs" / "Reach-v0" / "seed-1" / "metrics.jsonl").exists()
    (check,) = re.findall(r"`metarl (check reach:\S+)`", README)
    assert "FAULT" not in run("-m", "metarl", *check.split(), cwd=tmp_path)


def test_the_python_example_runs(tmp_path):
    (code,) = [code for code in PYTHON if "metarl.Learner" in code]
    lines = run("-c", code, cwd=tmp_path).splitlines()
    assert len(lines) == 8
    before, after = map(float, lines[4].split())
    assert after > before  # a newcomer's first look: it learns to adapt
    assert len(eval(lines[5])) == 3
    assert "test/step_1/mean" in lines[6]
    assert lines[7].startswith("[")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the README's run was trained, much smaller."""
    folder = tmp_path_factory.mktemp("readme")
    train_small(folder)
    return folder


@pytest.mark.parametrize("line", commands(README))
def test_each_command_runs(line, trained):
    output = run_line(line, trained)
    if output is not None and "tensorboard" not in line:
        assert any(word in output for word in ("HalfCheetah", "wrote"))


def test_ci_runs_the_test_command():
    (line,) = [line for line in commands(README) if "pytest" in line]
    lines = README.splitlines()
    assert lines[lines.index("<!-- tests -->") + 2] == line
    assert "<!-- tests -->" in (ROOT / ".ci" / "run").read_text()


def test_links_lead_somewhere():
    assert not broken_links(ROOT / "README.md")
    assert not broken_links(ROOT / "CONTRIBUTING.md")
