"""Imports of modules and objects that a user names, also from the working folder.

What a run folder names is not what a user names: somebody else may have written it. In the block of
`options_of_a_run` it can import nothing from the working folder, and it can call nothing that is
not made for metarl.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from metarl.support.errors import UsageError, nearest
from metarl.support.places import INSTALLED

OWN = ("metarl", "envs", "metarl_envs")
"""Packages of metarl, which its entry points need not announce."""
HERE = ""
"""The working folder in `sys.path`, beside its full name after `python -m`."""


@dataclass(frozen=True)
class Source:
    """Where names of modules come from, and which of them are trusted."""

    name: str
    """What names them, for messages: `the run in FOLDER`."""
    trusted: bool = False
    """Whether all of them are, as a user's own command line."""
    named: frozenset[str] = frozenset()
    """Modules that the user names as well."""
    trusts_runs: bool = False
    """Whether the user has said that all runs are to be trusted."""


_source = Source("the command line", trusted=True)


def named_modules(words: Iterable[str]) -> frozenset[str]:
    """The modules that the words of a command line name, as in `module:Name`."""
    return frozenset(word.split("=")[-1].partition(":")[0] for word in words if ":" in word)


@contextmanager
def options_of_a_run(source: Source) -> Iterator[None]:
    """In the block, modules and objects are those that `source` names.

    If it is not trusted, these are refused with a `UsageError`:

    - modules that are not installed, except those that the user names or the program has imported;
    - objects, which metarl calls, of all other modules than its own, those of packages that
      announce parts to it, and those that the user names.
    """
    global _source
    before = _source
    named, trusts_runs = before.named | source.named, before.trusts_runs or source.trusts_runs
    trusted = source.trusted or trusts_runs
    _source = replace(source, trusted=trusted, named=named, trusts_runs=trusts_runs)
    try:
        yield
    finally:
        _source = before


@contextmanager
def _path_without_working_folder() -> Iterator[None]:
    path = sys.path[:]
    others = [folder for folder in path if folder != HERE]
    # Only the first is there by `python -m`: an installed checkout may be the working folder, too.
    sys.path[:] = others[1:] if others[0] == os.getcwd() else others
    try:
        yield
    finally:
        sys.path[:] = path


def import_module_here(module: str) -> None:
    """Imports a module, also from the working folder, as `python -m` does.

    Raises:
        UsageError: there is no such module, or it is not to be trusted; an error inside the module
            is raised unchanged.

    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"{module!r} is no name of a module")
    if not (trusted := _is_trusted(module)) and not _is_installed(module):
        raise UsageError(
            f"{_source.name} names module {module}, which is not installed: if you trust the "
            "module of that name in this folder, give --trust (in Python, import it first)"
        )
    if trusted and HERE not in sys.path:
        sys.path.insert(0, HERE)
    try:
        with contextlib.nullcontext() if trusted else _path_without_working_folder():
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # an import inside the module fails
        here = [path.stem for path in Path().iterdir() if path.suffix == ".py" or path.is_dir()]
        raise UsageError(
            f"there is no module {module} here or among the installed packages"
            f"{nearest(module, here)}"
        ) from None


def import_object(reference: str, option: str, fits: Callable[[object], bool] = callable) -> object:
    """Imports the object MODULE:NAME.

    Args:
        reference: MODULE:NAME.
        option: what names it.
        fits: whether an object may be meant, for the message if there is none of that name.

    Raises:
        UsageError: there is no such module or name, or it is not to be trusted; the message begins
            with `option`.

    """
    module, _, name = reference.partition(":")
    if not (module and name):
        raise UsageError(f"{option} {reference} must be MODULE:NAME")
    if not _is_trusted(module) and _is_installed(module) and not _is_made_for_metarl(module):
        raise UsageError(
            f"{_source.name} names {option} {reference}, of a package that is not made for metarl: "
            "if you trust it, give --trust"
        )
    try:
        import_module_here(module)
    except UsageError as error:
        raise UsageError(f"{option} {reference}: {error}") from None
    try:
        found: object = getattr(sys.modules[module], name)
    except AttributeError:
        hint = nearest(name, _public(module)) or _listed(_fitting(module, fits))
        raise UsageError(f"{option} {reference}: module {module} has no {name}{hint}") from None
    return found


def _public(module: str) -> list[str]:
    return [name for name in vars(sys.modules[module]) if not name.startswith("_")]


def _fitting(module: str, fits: Callable[[object], bool]) -> list[str]:
    """Names of what the module itself defines and that fits."""
    values = vars(sys.modules[module])
    own = (n for n in _public(module) if getattr(values[n], "__module__", None) == module)
    return [name for name in own if fits(values[name])]


def _listed(names: Sequence[str]) -> str:
    return f"; it has {', '.join(names)}" if names else ""


def _is_trusted(module: str) -> bool:
    """Whether the source is trusted, or the user has named the module or runs it already."""
    return _source.trusted or module in _source.named or is_of_the_program(module)


def is_of_the_program(module: str) -> bool:
    """Whether the program has imported the module, and not from an installed package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] in OWN:
        return False
    return not file.startswith(INSTALLED)


def _is_installed(module: str) -> bool:
    """Whether Python finds the module's package without the working folder."""
    top = module.partition(".")[0]
    try:
        with _path_without_working_folder():
            return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _is_made_for_metarl(module: str) -> bool:
    """Whether the module's package is metarl's own, or announces parts to metarl."""
    groups = [g for g in importlib.metadata.entry_points().groups if g.startswith("metarl.")]
    points = (p for group in groups for p in importlib.metadata.entry_points(group=group))
    return module.partition(".")[0] in {*OWN, *(p.module.partition(".")[0] for p in points)}
