"""`metarl new-family`: writes a new family to start from."""

from collections.abc import Sequence
from pathlib import Path

from metarl.support.errors import UsageError
from metarl.tasks.starter import write_family


def run(arguments: Sequence[str]) -> None:
    """Writes the files of a new family and its test to the working folder."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    for option in arguments:
        if option.startswith("-") and option != "--mujoco":
            raise UsageError(
                f"metarl new-family has no option {option}; its only option is --mujoco"
            )
    if len(names) != 1:
        raise UsageError(
            "metarl new-family NAME [--mujoco] needs exactly one name, as in PushToGoal"
        )
    *files, test = write_family(names[0], Path(), mujoco="--mujoco" in arguments)
    family = f"{files[0].stem}:{names[0]}-v0"
    print(f"wrote {', '.join(map(str, files))} and {test}; edit them, then run")
    print(f"  metarl check {family}")
    print(f"  metarl train --family {family}")
    print(f"  python -m pytest {test}   (pytest comes apart: pip install pytest)")
