"""Every code block of the README runs, and its files are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines()]


def run(*command, cwd):
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_there_is_no_other_kind_of_block():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert len(PYTHON) == 3
    assert len(SHELL) == 10


def test_the_own_family_trains_as_the_readme_says(tmp_path):
    (code,) = [code for code in PYTHON if "gymnasium.register" in code]
    (new,) = re.findall(r"`metarl (new-family \S+)`", README)
    run(sys.executable, "-m", "metarl", *new.split(), cwd=tmp_path)
    assert (tmp_path / "reach.py").read_text() == code
    (command,) = re.findall(r"`metarl (train --family reach:\S+)`", README)
    small = "--iterations 2 --meta-batch-size 4 --episodes 4 --eval-every 2 --eval-tasks 4"
    output = run(sys.executable, "-m", "metarl", *command.split(), *small.split(), cwd=tmp_path)
    assert "iteration 2/2" in output
    assert (tmp_path / "runs" / "Reach-v0" / "seed-1" / "metrics.jsonl").exists()
    (check,) = re.findall(r"`metarl (check reach:\S+)`", README)
    assert "FAULT" not in run(sys.executable, "-m", "metarl", *check.split(), cwd=tmp_path)


def test_the_python_example_runs(tmp_path):
    (code,) = [code for code in PYTHON if "metarl.Learner" in code]
    lines = run(sys.executable, "-c", code, cwd=tmp_path).splitlines()
    assert len(lines) == 7
    before, after = map(float, lines[4].split())
    assert after > before  # a newcomer's first look: it learns to adapt
    assert len(eval(lines[5])) == 3
    assert "test/step_1/mean" in lines[6]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the README's run was trained, much smaller."""
    folder = tmp_path_factory.mktemp("readme")
    small = "--iterations 2 --meta-batch-size 2 --episodes 3 --horizon 5 --eval-every 0"
    run(sys.executable, ROOT / "experiments/half_cheetah_dir.py", *small.split(), cwd=folder)
    return folder


SMALLER = {
    "half_cheetah_dir.py": "--iterations 1 --meta-batch-size 2 --eval-every 0 --run-dir one",
    "evaluate": "--tasks 3",
    "compare": "--iterations 1 --seeds 1 --meta-batch-size 2 --episodes 2 --horizon 3 "
    "--eval-tasks 2",
}
"""What is added to a command, so that it takes seconds."""


@pytest.mark.parametrize("line", SHELL)
def test_each_command_runs(line, trained):
    """What follows the making of the virtual environment, with this one's programs."""
    command = line.split("&&")[-1].split()
    assert command[0].startswith(".venv/bin/")
    program = Path(sys.executable).with_name(Path(command[0]).name)
    if "pytest" in command:
        return  # this is what runs
    if "tensorboard" in command[0]:
        run(program, "--version", cwd=trained)
        return
    if command[1].endswith(".py"):
        command[1] = str(ROOT / command[1])
    for name, options in SMALLER.items():
        if Path(command[1]).name == name:
            command += options.split()
    if command[1] == "train":
        command += ["--run-dir", f"run-{len(line)}"]
    output = run(program, *command[1:], cwd=trained)
    assert any(word in output for word in ("HalfCheetah", "wrote"))


def test_the_adapted_policy_is_loaded_in_plain_torch(trained):
    (code,) = [code for code in PYTHON if "safetensors" in code]
    command = ["adapt", "runs/HalfCheetahDir-v0/seed-1", "--out", "policy"]
    run(sys.executable, "-m", "metarl", *command, cwd=trained)
    shown = "print(network(torch.zeros(1, 17)).shape)"
    assert "[1, 6]" in run(sys.executable, "-c", code + shown, cwd=trained / "policy")


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_every_tag_is_explained():
    from metarl import Config, Learner

    tags = Learner(Config(family="envs:Navigation2D-v0", meta_batch_size=2, horizon=3)).iterate()
    for tag in set(tags) - {"iteration", "env_steps"}:
        group = tag.split("/")[0]
        explained = tag in README or tag.startswith("return/step_")
        assert explained or f"`{group}/...`" in README, tag
