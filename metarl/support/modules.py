"""Importing what a user names, from the working folder too."""

import importlib
import sys

from metarl.support.errors import UsageError


def import_module_here(module: str) -> None:
    """Imports a module, from the working folder too, as `python -m` would.

    Raises:
        UsageError: there is no such module; an error inside it is raised as it is.

    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # one of its own imports
        raise UsageError(
            f"there is no module {module} here or among the installed packages"
        ) from None


def import_object(reference: str, option: str) -> object:
    """What MODULE:NAME names; `option` is named where it does not exist.

    Raises:
        UsageError: there is no such module, or it has no such name.

    """
    module, _, name = reference.partition(":")
    if not (module and name):
        raise UsageError(f"{option} {reference} must be MODULE:NAME")
    import_module_here(module)
    try:
        found: object = getattr(sys.modules[module], name)
    except AttributeError:
        raise UsageError(f"{option} {reference}: module {module} has no {name}") from None
    return found
