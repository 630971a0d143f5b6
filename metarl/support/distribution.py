"""The installed distribution: `metarl-suite`, which provides the packages `metarl` and `envs`.

The name `metarl` on the Python package index belongs to an unrelated project that provides a
package `metarl`, too. Where both are installed, one overwrites files of the other.
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
    """Warns if the unrelated distribution `metarl` has put its own files into our package."""
    try:
        other = distribution(NAMESAKE)
    except PackageNotFoundError:
        return
    # An editable installation of this project from before its new name lists no such file.
    if any(file.as_posix() == "metarl/__init__.py" for file in other.files or ()):
        warnings.warn(
            f"the unrelated distribution '{NAMESAKE}' {other.version} is installed and overwrites "
            f"files of '{DISTRIBUTION}': run `pip uninstall {NAMESAKE} {DISTRIBUTION}`, then "
            f"`pip install {DISTRIBUTION}`",
            stacklevel=3,
        )
