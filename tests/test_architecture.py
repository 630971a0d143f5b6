"""The direction of imports: a room imports from the rooms below it, and no circle lies within one.

The rule is stated per folder, so that a new file needs no edit here.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = (
    "cli",
    "studies",
    "runs",
    "learners",
    "maml",
    "evaluation",
    "sampling",
    "simulation",
    "outer",
    "policies",
    "tasks",
    "support",
)
"""From the top down: a folder of metarl imports only from itself and from folders after it."""

SIDE_BY_SIDE = {("outer", "tasks"), ("outer", "simulation"), ("policies", "tasks")}
"""Rooms that must not know each other, in either direction."""

FAMILY_INTERFACE = ("metarl.tasks", "metarl.support.errors")
"""What the families that come with metarl may import."""


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Names imported anywhere in the file, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if path.parent.name == "envs" and node.level:
                yield f"envs.{node.module}"
                continue
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            # `from metarl.runs import sinks` imports a module as well.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


SOURCES = {module_name(path): path for path in (ROOT / "metarl").rglob("*.py")}
PACKAGES = {name for name, path in SOURCES.items() if path.name == "__init__.py"}
MODULES = sorted(set(SOURCES) - PACKAGES - {"metarl.__main__"})


def room(module):
    return module.split(".")[1]


def test_every_file_has_a_room():
    assert {room(name) for name in MODULES} == set(ROOMS)
    assert {path.name for path in (ROOT / "metarl").glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_from_rooms_below_it(name):
    for imported in imports(SOURCES[name]):
        assert imported.split(".")[0] != "envs", f"{name} imports a family"
        if imported in SOURCES and imported not in PACKAGES:
            own, other = room(name), room(imported)
            assert ROOMS.index(own) <= ROOMS.index(other), f"{name} imports {imported}"
            assert not {(own, other), (other, own)} & SIDE_BY_SIDE, f"{name} imports {imported}"


def test_no_circle_within_a_room():
    graph = {name: set(imports(SOURCES[name])) & set(MODULES) for name in MODULES}
    while leaves := {name for name, imported in graph.items() if not imported}:
        graph = {name: imported - leaves for name, imported in graph.items() if name not in leaves}
    assert not graph, f"these import each other: {sorted(graph)}"


def test_the_defining_file_is_imported_and_never_a_package():
    for name, path in SOURCES.items():
        named = PACKAGES.intersection(imports(path))
        assert not named, f"{name} imports {named}"


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.py")), ids=lambda path: path.stem)
def test_families_import_only_the_family_interface(path):
    for imported in imports(path):
        if imported.startswith("metarl"):
            assert any(imported == a or imported.startswith(f"{a}.") for a in FAMILY_INTERFACE), (
                imported
            )


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.py")), ids=lambda path: path.stem)
def test_families_import_each_other_relatively(path):
    """So that they work as modules of `metarl_envs` too, beside a package `envs` of a project."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "envs" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] != "envs"
