"""A command in a fork does what it does in a process of its own."""

import subprocess
import sys

import pytest
from forked import metarl, python

TELLS = """
import os
import sys
print(sys.argv[1:], __name__, os.getcwd(), os.environ["WORD"], sys.path[0], own.WORD)
print("and then", file=sys.stderr)
raise SystemExit(3)
"""


@pytest.mark.parametrize(
    "arguments", [("tells.py", "a"), ("-m", "tells", "a"), ("-c", "import own" + TELLS, "a")]
)
def test_a_fork_is_like_a_process_of_its_own(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WORD", "word")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "own.py").write_text("WORD = 'own'")
    (tmp_path / "tells.py").write_text("import own" + TELLS)
    ours = python(*arguments, cwd=tmp_path, path=[tmp_path / "site"])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    command = [sys.executable, *arguments]
    theirs = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)
    assert (ours.returncode, ours.stderr) == (3, "and then\n")


def test_a_command_that_raises_has_its_traceback_and_status_1():
    result = python("-c", "raise KeyError('nothing')")
    assert result.returncode == 1
    assert result.stderr.endswith("KeyError: 'nothing'\n")


def test_no_family_and_no_mujoco_is_imported_before_a_command():
    names = {"envs", "metarl_envs", "mujoco"}
    result = python("-c", f"import sys; print({names} & set(sys.modules))")
    assert result.stdout == "set()\n"


def test_a_mistake_is_one_line():
    result = metarl("trian")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: metarl has no command trian; ")
