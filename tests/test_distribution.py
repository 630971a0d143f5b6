"""The distribution's name, and the warning about the unrelated one with the same import name."""

import re
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

from metarl.support.distribution import DISTRIBUTION, installed_version, warn_of_namesake

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def install(folder, name, version, *files):
    """The files of a distribution, and the metadata that pip writes for it."""
    for file in files:  # Python 3.12 and later list only the files that are there
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages that hides all others."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_the_unrelated_distribution_is_reported(site):
    install(site, "metarl", "0.1.0", "metarl/__init__.py", "metarl/maml.py")
    with pytest.warns(UserWarning, match="'metarl' 0.1.0 .* `pip uninstall metarl metarl-suite`"):
        warn_of_namesake()


@pytest.mark.parametrize("files", [None, ("_metarl.pth",)])
def test_there_is_no_warning_without_its_files(site, files):
    install(site, DISTRIBUTION, "0.1.0", "metarl/__init__.py")
    if files:  # an editable installation of this project under its earlier name
        install(site, "metarl", "0.1.0", *files)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_namesake()


def test_the_version_is_that_of_our_distribution(site):
    assert installed_version() == "not installed"
    install(site, "metarl", "7.0.0", "metarl/__init__.py")
    install(site, DISTRIBUTION, "0.2.0")
    assert installed_version() == "0.2.0"


def test_the_project_has_this_name():
    assert PROJECT["name"] == DISTRIBUTION
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation


def test_each_extra_that_is_named_exists():
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run"]
    for folder, suffix in (("docs", "md"), ("metarl", "py"), ("envs", "py")):
        files += (ROOT / folder).rglob(f"*.{suffix}")
    named = re.compile(r"(?:install .*\.|metarl-suite)\[([a-z,]+)\]")
    found = {
        extra
        for file in files
        for names in named.findall(file.read_text())
        for extra in names.split(",")
    }
    assert "dev" in found
    assert found <= set(PROJECT["optional-dependencies"])
