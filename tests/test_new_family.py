import re

import pytest
from forked import metarl, python

from metarl.cli.main import main
from metarl.support.errors import UsageError
from metarl.tasks.starter import write_family

FILES = {
    False: ["push_to_goal2d.py", "test_push_to_goal2d.py"],
    True: ["push_to_goal2d.py", "push_to_goal2d.xml", "test_push_to_goal2d.py"],
}


@pytest.mark.parametrize("mujoco", [False, True])
def test_the_starter_passes_its_own_test(mujoco, tmp_path):
    """Which checks it and takes a meta-iteration."""
    paths = write_family("PushToGoal2D", tmp_path, mujoco)
    assert [path.name for path in paths] == FILES[mujoco]
    test = paths[-1]
    result = python("-m", "pytest", "-q", "-p", "no:cacheprovider", test, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout


@pytest.mark.parametrize(
    "name", ["reach", "My-Family", "../Reach", "", "2D", "Class", "Queue", "Torch"]
)
def test_a_name_that_is_none_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="family name"):
        write_family(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mine", ["reach.py", "reach.xml", "test_reach.py"])
def test_nothing_is_overwritten(mine, tmp_path):
    (tmp_path / mine).write_text("mine")
    with pytest.raises(UsageError, match=f"{re.escape(mine)} already exists"):
        write_family("Reach", tmp_path, mujoco=True)
    assert [path.name for path in tmp_path.iterdir()] == [mine]
    assert (tmp_path / mine).read_text() == "mine"


def test_the_command_writes_a_mujoco_family_that_trains_as_it_says(tmp_path):
    result = metarl("new-family", "Reach", "--mujoco", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    wrote, check, train, test = result.stdout.splitlines()
    assert "reach.py, reach.xml and test_reach.py" in wrote
    assert check.split() == ["metarl", "check", "reach:Reach-v0"]
    assert test.split()[:4] == ["python", "-m", "pytest", "test_reach.py"]
    small = "--iterations 1 --meta-batch-size 2 --episodes 2 --horizon 5 --eval-every 0"
    result = metarl(*train.split()[1:], *small.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "iteration 1/1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["Reach", "--warp"],
            "metarl new-family has no option --warp; its only option is --mujoco",
        ),
        (
            ["--mujoco"],
            "metarl new-family NAME [--mujoco] needs exactly one name, as in PushToGoal",
        ),
        (
            ["Reach", "Push"],
            "metarl new-family NAME [--mujoco] needs exactly one name, as in PushToGoal",
        ),
    ],
)
def test_a_wrong_command_is_one_line(arguments, message, tmp_path):
    result = metarl("new-family", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, f"error: {message}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("new-family", ["PushToGoal-v0", "push_to_goal.xml", "pip install pytest"]),
        ("check", ["MODULE:ID", "no options", "exit status 1"]),
    ],
)
def test_help_says_what_a_command_without_options_takes(command, words, capsys):
    main([command, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"metarl {command} ")
    assert all(word in text for word in words)
