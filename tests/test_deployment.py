"""The SLURM script, without SLURM; and the Dockerfile, as far as it can be read without Docker."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "slurm_array.sh"
TINY = [
    *("--meta-batch-size", "2", "--episodes", "2", "--horizon", "3", "--eval-every", "0"),
    *("--device", "cpu"),
]


@pytest.fixture
def folder(tmp_path):
    """A folder with a virtual environment whose programs are those of this one."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return tmp_path


def test_a_task_of_the_array_trains_its_seed(folder):
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "1"}
    command = ["bash", str(SCRIPT), *TINY, "--iterations", "1"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "iteration 1/1" in result.stdout
    config = json.loads((folder / "runs" / "slurm" / "seed-3" / "config.json").read_text())
    assert (config["config"]["seed"], config["config"]["resume"]) == (3, True)


def test_the_dockerfile_takes_what_is_there():
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = re.findall(r"^FROM python:(3\.\d+)-slim$", text, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
    (entry,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', text, re.MULTILINE)
    assert entry in project["scripts"]
    ci = (ROOT / ".ci" / "run").read_text()
    for package in re.search(r"--no-install-recommends (.*?) \\", text)[1].split():
        assert package in ci  # where the tests draw clips
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"metarl", "envs", "metarl_envs", "pyproject.toml", "README.md"} & set(ignored)
