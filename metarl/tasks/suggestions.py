"""The task family that was perhaps meant."""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import gymnasium

SHIPPED = "metarl_envs"
"""The package `envs` of metarl under a name that no other project uses."""
ID = re.compile(r"""register\(\s*(?:id\s*=\s*)?["']([\w./-]+-v\d+)["']""")
"""The Gymnasium id of a registration in the text of a program."""


def suggestion(name: str, module: str, announced: Iterable[str]) -> str:
    """The hint `; did you mean MODULE:ID?`, or an empty string.

    It looks for a name like `name` first in `module`, which is imported, then in the files of the
    working folder, which are only read, and then in the `announced` modules.
    """
    groups = (
        (f"{module}:{own}" for own in _registered_by(module)) if module else (),
        _written_here(),
        (_reference(other, own, module) for other in announced for own in _registered_by(other)),
    )
    for group in groups:
        references = {reference.rpartition(":")[2]: reference for reference in group}
        if close := difflib.get_close_matches(name, references, 1):
            return f"; did you mean {references[close[0]]}?"
    return ""


def _reference(announced: str, name: str, module: str) -> str:
    """A family of an announced module; if a module was named, one of metarl has its own, too."""
    return f"envs:{name}" if module and announced == SHIPPED else name


def _registered_by(module: str) -> Iterator[str]:
    """Ids whose class or declaration is in the module's package."""
    package = module.split(".")[0]
    for name, spec in gymnasium.registry.items():
        entry = spec.entry_point
        where = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
        declared = spec.kwargs.get("family", "")
        places = (where, declared if isinstance(declared, str) else type(declared).__module__)
        if any(place.split(":")[0].split(".")[0] == package for place in places):
            yield name


def _written_here() -> Iterable[str]:
    """`module:Id` of each id that a program in the working folder names in a registration."""
    for path in sorted(Path().glob("*.py")):
        text = path.read_text(errors="ignore")
        yield from (f"{path.stem}:{name}" for name in ID.findall(text))
