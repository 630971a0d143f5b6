"""The installed distribution: `metarl-suite`, which provides the packages `metarl` and `envs`.

On the Python package index, `metarl` is an unrelated project that also provides a package `metarl`.
If both are installed, one overwrites files of the other.
"""

import warnings
from importlib.metadata import PackageNotFoundError, distribution, version

DISTRIBUTION = "metarl-suite"
NAMESAKE = "metarl"


def installed_version() -> str:
    """The version of metarl-suite, or "not installed" in a source tree that is only imported."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "not installed"


def warn_of_namesake() -> None:
    """Warns if the unrelated distribution `metarl` is installed and overwrites files."""
    try:
        other = distribution(NAMESAKE)
    except PackageNotFoundError:
        return
    # An old editable installation of this project, then named `metarl`, lists no such file.
    if any(file.as_posix() == "metarl/__init__.py" for file in other.files or ()):
        warnings.warn(
            f"the unrelated distribution '{NAMESAKE}' {other.version} is installed and overwrites "
            f"files of '{DISTRIBUTION}': run `pip uninstall {NAMESAKE} {DISTRIBUTION}`, then "
            f"`pip install {DISTRIBUTION}`",
            stacklevel=3,
        )
