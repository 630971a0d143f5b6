"""The direction of imports: the library knows no families, and nobody imports sideways or up."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = [
    {"metarl.__main__"},
    {"metarl.cli"},
    {"metarl.run_commands", "metarl.family_commands"},
    {"metarl.compare"},
    {"metarl.report"},
    {"metarl.training", "metarl.plot", "metarl.check", "metarl.new_family", "metarl.show"},
    {"metarl.record", "metarl.learner", "metarl.few_shot", "metarl.rl2", "metarl.export"},
    {"metarl.exact", "metarl.parts", "metarl.supervised"},
    {"metarl.config"},
    {"metarl.algorithms", "metarl.outer.registry"},
    {
        "metarl.outer.trpo",
        "metarl.outer.ppo",
        "metarl.outer.policy_gradient",
        "metarl.outer.natural_gradient",
        "metarl.outer.reptile",
        "metarl.outer.evolution",
    },
    {"metarl.objective", "metarl.figures"},
    {"metarl.evaluation", "metarl.alarms"},
    {"metarl.outer.adam", "metarl.outer.fisher"},
    {"metarl.adaptation"},
    {"metarl.surrogate"},
    {"metarl.advantage"},
    {"metarl.baseline"},
    {"metarl.rollout", "metarl.recurrent"},
    {"metarl.simulation.gymnasium", "metarl.simulation.mujoco", "metarl.simulation.dynamics"},
    {"metarl.simulation.declared", "metarl.simulation.processes"},
    {"metarl.simulation.serial"},
    {"metarl.declaration", "metarl.parameterised"},
    {"metarl.tasks", "metarl.sinks"},
    {"metarl.checkpoint"},
    {"metarl.policy", "metarl.parallel", "metarl.randomness"},
    {"metarl.distributions"},
    {"metarl.options"},
    {"metarl.errors", "metarl.clock"},
]
"""From the top down: a module may import what stands below it."""

PACKAGES = {"metarl", "metarl.outer", "metarl.simulation"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            # `from metarl import record` imports a module as well.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


SOURCES = {module_name(path): path for path in (ROOT / "metarl").rglob("*.py")}
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}


def test_every_module_has_its_floor():
    assert set(SOURCES) == set(FLOOR) | PACKAGES


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_a_module_imports_only_what_stands_below_it(name):
    for imported in imports(SOURCES[name]):
        assert imported.split(".")[0] != "envs", f"{name} imports a family"
        if imported in FLOOR:
            assert FLOOR[imported] > FLOOR[name], f"{name} imports {imported}"


def test_the_defining_file_is_imported_and_never_a_package():
    for name, path in SOURCES.items():
        named = PACKAGES.intersection(imports(path))
        assert not named, f"{name} imports {named}"


INTERFACE = ("declaration", "distributions", "errors", "tasks", "supervised")


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.py")), ids=lambda path: path.stem)
def test_families_import_only_the_family_interface(path):
    allowed = {f"metarl.{name}" for name in INTERFACE}
    for imported in imports(path):
        if imported.startswith("metarl"):
            assert any(imported == a or imported.startswith(f"{a}.") for a in allowed), imported
