"""Gymnasium's entries of task families, whose modules are imported when they are asked for."""

import importlib.metadata
import sys
from collections.abc import Sequence

import gymnasium

from metarl.support.errors import UsageError, expect_instance, expect_list, nearest
from metarl.support.modules import import_module_here
from metarl.tasks.suggestions import SHIPPED, suggestion

ENVIRONMENT = "environment"
"""What is no task family, because it has no task."""
NAMING = "task families are named MODULE:ID, as in envs:HalfCheetahDir-v0"
REGISTER = "; gymnasium.register gives an environment its id"
ENTRY_POINT_GROUP = "metarl.task_families"
"""Installed packages announce modules that register families by entry points of this group."""


def expect_id(family: object) -> None:
    """Checks that a family is named.

    Raises:
        UsageError: an environment, its class or a `TaskFamily` is in the place of the name.

    """
    own = getattr(family, "id", None)
    expect_instance(family, str, NAMING, f"; the id of this one is {own}" if own else REGISTER)


def find_spec(id: str, what: str = "task family") -> gymnasium.envs.registration.EnvSpec:
    """Gymnasium's entry for `Id` or `module:Id`; the module is imported first.

    If a project has its own package `envs`, `envs:Id` is a family of that package if it has one of
    this name, and otherwise the one that comes with metarl. `what` is that which it should be of.

    Raises:
        UsageError: the module or id is unknown (the message suggests the closest family), or `id`
            has neither form.

    """
    expect_id(id)
    naming = f"{NAMING}, not {id!r}"
    module, colon, name = id.rpartition(":")
    if not name or (colon and not module.split(".")[0]):
        raise UsageError(naming)
    if module:
        _import_or_shipped(module, name)
    elif name not in gymnasium.registry:
        import_announced_modules()
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    if not module and "." in name:  # a dot in the place of the colon
        raise UsageError(naming)
    where = f"module {module} ({_origin(module)}) registers no" if module else "there is no"
    own = nearest(name, gymnasium.registry) if what == ENVIRONMENT and not module else ""
    hint = own or suggestion(name, module, import_announced_modules())
    raise UsageError(f"{where} {what} {name}{hint}")


def registered_families(modules: Sequence[str] = ()) -> list[str]:
    """Ids of all families: those of announced modules and of these `modules`, and declared ones."""
    expect_list(modules, "modules")
    for module in modules:
        import_module_here(module)
    return _registered_by([*import_announced_modules(), *modules])


def _registered_by(modules: Sequence[str]) -> list[str]:
    """Ids of the families of these modules, which are imported, and of all declared families."""
    packages = {"metarl", *(module.split(".")[0] for module in modules)}
    return sorted(
        name
        for name, spec in gymnasium.registry.items()
        if isinstance(spec.entry_point, str)
        and spec.entry_point.split(":")[0].split(".")[0] in packages
    )


def import_announced_modules() -> list[str]:
    """Imports metarl's families and those that installed packages announce; returns the modules."""
    announced = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    modules = [SHIPPED, *(entry_point.value for entry_point in announced)]
    for module in modules:
        import_module_here(module)
    return modules


def _origin(module: str) -> str:
    return str(getattr(sys.modules[module], "__file__", None) or "a namespace package")


def _import_or_shipped(module: str, name: str) -> None:
    """Imports `module`, and metarl's `envs` if `module` is another `envs` without the family."""
    parent, *rest = module.split(".")
    try:
        import_module_here(module)
    except UsageError:
        if parent != "envs":
            raise
    if parent == "envs" and name not in gymnasium.registry:
        try:
            import_module_here(".".join((SHIPPED, *rest)))
        except UsageError:
            import_module_here(module)  # report its error, or that it lacks the family
