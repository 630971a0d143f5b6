"""Checks that a registered family fulfils its contract, like an environment checker for tasks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metarl.simulation.bounds import FamilyFaultError
from metarl.simulation.checks import CHECKS, NEEDED, Caution
from metarl.support.errors import ScriptError, UnfitError
from metarl.support.places import place_of, text_of
from metarl.support.signals import is_request_to_end
from metarl.support.spawned import end_unguarded
from metarl.tasks.family import TaskFamily, family_of


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    name: str
    passed: bool
    detail: str
    hint: str
    caution: bool = False
    """Whether the check passed with a `Caution`."""


def check_family(family: TaskFamily | str) -> list[Finding]:
    """All findings on a family, or on that of an id, in the order of `CHECKS`."""
    return list(findings_of(family_of(family, "metarl.check")))


def findings_of(family: TaskFamily, begins: Callable[[str], object] = str) -> Iterator[Finding]:
    """The findings one by one; `begins` is called with the name of each check before it."""
    end_unguarded()
    for name, (check, hint) in CHECKS.items():
        begins(name)
        try:
            found = check(family)
            finding = Finding(name, True, found, "", isinstance(found, Caution))
        except FamilyFaultError as fault:
            finding = Finding(name, False, str(fault), hint)
        except ScriptError:
            raise  # no fault of the family
        except BaseException as error:  # any error of the family's own code is a finding
            if is_request_to_end(error):
                raise
            # The cause of a UsageError may be a line of the family's own code.
            cause = error.__cause__ or error
            found_here = isinstance(cause, UnfitError)  # in what that code returned
            raised = hint if found_here else f"raised at {place_of(cause)}"
            finding = Finding(name, False, text_of(error), raised)
        yield finding
        if check in NEEDED and not finding.passed:
            break  # the other checks would fail for the same reason
