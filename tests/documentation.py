"""The code blocks of the README and of the documentation, and how their commands are run."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

SMALLER = {
    "half_cheetah_dir.py": "--iterations 1 --meta-batch-size 2 --eval-every 0 --run-dir one",
    "train": "--iterations 1 --meta-batch-size 2 --episodes 2 --horizon 5 --eval-every 0",
    "evaluate": "--tasks 3",
    "compare": "--iterations 1 --seeds 1 --meta-batch-size 2 --episodes 2 --horizon 3 "
    "--eval-tasks 2",
}
"""What is added to a command, so that it takes seconds."""

ELSEWHERE = {"pip", "pytest", "ruff"}
"""Programs that CI runs by itself."""


def blocks(text):
    """(language, code) of each block."""
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def commands(text):
    """The lines of the shell blocks."""
    return [
        line
        for language, code in blocks(text)
        if language == "bash"
        for line in code.split("\n")
        if line
    ]


def run(*command, cwd):
    """The output of a command, which must succeed."""
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_line(line, folder):
    """Runs what follows the making of the virtual environment, with this one's programs."""
    command = line.split("&&")[-1].split()
    assert command[0].startswith(".venv/bin/")
    program = Path(sys.executable).with_name(Path(command[0]).name)
    if ELSEWHERE.intersection((program.name, *command)):
        return None
    if program.name == "tensorboard":
        return run(program, "--version", cwd=folder)
    if command[1].endswith(".py"):
        command[1] = str(ROOT / command[1])
    command += SMALLER.get(Path(command[1]).name, "").split()
    if command[1] == "train":
        command += ["--run-dir", f"run-{len(line)}"]
    return run(program, *command[1:], cwd=folder)


def train_small(folder):
    """The run of the README, much smaller: runs/HalfCheetahDir-v0/seed-1."""
    small = "--iterations 2 --meta-batch-size 2 --episodes 3 --horizon 5 --eval-every 0"
    run(sys.executable, ROOT / "experiments/half_cheetah_dir.py", *small.split(), cwd=folder)


def broken_links(path):
    """Relative links of a Markdown file that lead nowhere."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    relative = [target for target in targets if not target.startswith("https://")]
    return [target for target in relative if not (path.parent / target).exists()]
