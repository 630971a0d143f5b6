"""The options of a run in --help, grouped, with the common ones first."""

import re
from dataclasses import fields

GROUPS = {
    "common": "help family algorithm learner preset iterations seed run-dir resume",
    "task": "family-options horizon action-scale observe-task problem problem-options",
    "sampling": "meta-batch-size episodes trials task-choice discount gae-lambda baseline "
    "simulation warp-contacts warp-constraints warp-deterministic workers worker-timeout "
    "sampling-device",
    "policy": "policy policy-options hidden-sizes hidden-size activation normalise-observations "
    "normalise-rewards",
    "inner loop": "inner-lr inner-steps estimator sampling-correction correction-over-steps adapts "
    "context-size step-sizes first-order",
    "outer loop": "outer outer-lr",
    "evaluation": "eval-every eval-tasks eval-splits eval-trials test-steps test-later-lr target "
    "patience info-metrics",
    "run": "init-from device threads time-limit checkpoint-every keep-checkpoints callbacks sinks "
    "rank-timeout stop-timeout",
}
"""Options by group, each in the order in which they are listed."""

OWNERS = {"metarl.outer": "outer loop", "metarl.learners.config": "run"}
"""The group of other options, by the module of the class that declares them."""
LAST = "learner"
"""The group of what is in no other group."""

LEARNER = re.compile(r"(--learner )\{(\w+)\}")
"""The one choice that the options shown have; other learners have other options."""
NAME = re.compile(r"│ (?:-h, )?--([\w-]+)")
"""The first line of an option."""


def grouped(text: str, options: type) -> str:
    """The help that tyro prints, with several boxes in place of the one of all options.

    Args:
        text: tyro's help.
        options: the dataclass whose fields are the options.

    """
    text = LEARNER.sub(lambda found: found[1] + "NAME".ljust(len(found[2]) + 2), text)
    lines = text.split("\n")
    starts = [i for i, line in enumerate(lines) if line.startswith("╭─ options")]
    if not starts:
        return text
    top = starts[0]
    bottom = next(i for i in range(top, len(lines)) if lines[i].startswith("╰"))
    entries: dict[str, list[str]] = {}
    for line in lines[top + 1 : bottom]:
        if found := NAME.match(line):
            entries[found[1]] = own = []
        own.append(line)
    boxes: list[str] = []
    for title, names in _groups(options, list(entries)).items():
        if names:
            boxes.append(f"╭─ {title} {'─' * (len(lines[top]) - len(title) - 5)}╮")
            boxes += [line for name in names for line in entries[name]]
            boxes.append(lines[bottom])
    return "\n".join([*lines[:top], *boxes, *lines[bottom + 1 :]])


def _groups(options: type, names: list[str]) -> dict[str, list[str]]:
    """The names by the title of their group."""
    groups = {title: [n for n in own.split() if n in names] for title, own in GROUPS.items()}
    groups[LAST] = []
    listed = {name for own in groups.values() for name in own}
    owners = {
        field.name.replace("_", "-"): cls.__module__
        for cls in reversed(options.__mro__)
        if "__dataclass_fields__" in vars(cls)
        for field in fields(cls)
        if field.name in vars(cls).get("__annotations__", {})
    }
    for name in names:
        if name not in listed:
            module = owners.get(name, "")
            title = next((OWNERS[part] for part in OWNERS if module.startswith(part)), LAST)
            groups[title].append(name)
    return groups
