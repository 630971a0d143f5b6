import subprocess
import sys

import pytest

from metarl.errors import UsageError
from metarl.new_family import write_family


def test_the_starter_passes_its_own_test(tmp_path):
    family, test = write_family("PushToGoal2D", tmp_path)
    assert (family.name, test.name) == ("push_to_goal2d.py", "test_push_to_goal2d.py")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout


@pytest.mark.parametrize("name", ["reach", "My-Family", "../Reach", "", "2D", "Class"])
def test_a_name_that_is_none_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="family name"):
        write_family(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "test_reach.py").write_text("mine")
    with pytest.raises(UsageError, match=r"test_reach\.py is there already"):
        write_family("Reach", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_reach.py"]
    assert (tmp_path / "test_reach.py").read_text() == "mine"
