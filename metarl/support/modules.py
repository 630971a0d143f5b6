"""Imports of modules and objects that a user names, also from the working folder."""

import importlib
import sys
from pathlib import Path

from metarl.support.errors import UsageError, nearest


def import_module_here(module: str) -> None:
    """Imports a module, also from the working folder, as `python -m` does.

    Raises:
        UsageError: there is no such module; an error inside the module is raised unchanged.

    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # an import inside the module fails
        here = [path.stem for path in Path().iterdir() if path.suffix == ".py" or path.is_dir()]
        raise UsageError(
            f"there is no module {module} here or among the installed packages"
            f"{nearest(module, here)}"
        ) from None


def import_object(reference: str, option: str) -> object:
    """Imports the object MODULE:NAME.

    Raises:
        UsageError: there is no such module or name; the message begins with `option`.

    """
    module, _, name = reference.partition(":")
    if not (module and name):
        raise UsageError(f"{option} {reference} must be MODULE:NAME")
    try:
        import_module_here(module)
    except UsageError as error:
        raise UsageError(f"{option} {reference}: {error}") from None
    try:
        found: object = getattr(sys.modules[module], name)
    except AttributeError:
        own = [known for known in vars(sys.modules[module]) if not known.startswith("_")]
        raise UsageError(
            f"{option} {reference}: module {module} has no {name}{nearest(name, own)}"
        ) from None
    return found
