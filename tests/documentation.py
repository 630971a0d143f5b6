"""The code blocks of the README and of the documentation, and how their commands are run."""

import re
import subprocess
import sys
from pathlib import Path

from forked import SECONDS, compare, python

ROOT = Path(__file__).parents[1]

SMALLER = {
    "half_cheetah_dir.py": "--iterations 1 --meta-batch-size 2 --eval-every 0 --run-dir one",
    "train": "--iterations 1 --meta-batch-size 2 --episodes 2 --horizon 5 --eval-every 0",
    "evaluate": "--tasks 3",
    "compare": "--iterations 1 --seeds 1 --meta-batch-size 2 --episodes 2 --horizon 3 "
    "--eval-tasks 2",
    "tune": "--trials 1 --iterations 1 --meta-batch-size 2 --episodes 2 --horizon 5 --eval-every 1 "
    "--eval-tasks 2",
}
"""What is added to a command, so that it takes seconds."""

ELSEWHERE = {"pip", "pytest", "ruff"}
"""Programs that CI runs by itself."""

STARTED = {"families", "plot", "tune"}
"""Commands of metarl that are started as a user starts them. The others run in a fork."""


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


def run(*arguments, cwd):
    """What Python prints with these arguments; it must succeed."""
    return output_of(python(*arguments, cwd=cwd))


def output_of(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_line(line, folder):
    """Runs what follows the making of the virtual environment, with this one's programs."""
    command = line.split("&&")[-1].split()
    assert command[0].startswith(".venv/bin/")
    program, (first, *options) = Path(command[0]).name, command[1:]
    if ELSEWHERE.intersection((program, first, *options)):
        return None
    options += SMALLER.get(Path(first).name, "").split()
    if program == "tensorboard":
        first, options = "--version", []
    if first.endswith(".py"):
        first = str(ROOT / first)
    if first == "train":
        options += ["--run-dir", f"run-{len(line)}"]
    if first == "compare":
        return output_of(compare(*options, cwd=folder))
    if program == "metarl" and first not in STARTED:
        return run("-m", "metarl", first, *options, cwd=folder)
    started = [str(Path(sys.executable).with_name(program)), first, *options]
    return output_of(
        subprocess.run(started, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    )


def train_small(folder):
    """The run of the README, much smaller: runs/HalfCheetahDir-v0/seed-1."""
    small = "--iterations 2 --meta-batch-size 2 --episodes 3 --horizon 5 --eval-every 0"
    run(ROOT / "experiments/half_cheetah_dir.py", *small.split(), cwd=folder)


def broken_links(path):
    """Relative links of a Markdown file that lead nowhere."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    relative = [target for target in targets if not target.startswith("https://")]
    return [target for target in relative if not (path.parent / target).exists()]
