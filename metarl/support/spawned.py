"""Spawned processes, each of which imports the main script anew before it does its work."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess

from metarl.support.errors import ScriptError

UNGUARDED = 78
"""Exit code of a process whose main script would start processes again: EX_CONFIG of sysexits.h."""
GUARD = (
    "the script starts processes, and each of them runs it again from its top: put its calls of "
    'metarl below `if __name__ == "__main__":`'
)


def end_unguarded() -> None:
    """Ends a process that is only importing the main script, which would do all of it again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # An error might be caught by the script; the process that waits is told by the exit code.
        os.write(2, f"error: {GUARD}\n".encode())
        os._exit(UNGUARDED)


def start(process: BaseProcess) -> None:
    """Starts a process.

    Raises:
        ScriptError: there is no file of the main script that the process could import.

    """
    end_unguarded()
    if getattr(sys.modules["__main__"], "__file__", None) == "<stdin>":
        raise ScriptError(
            "the script comes from standard input, but processes that it starts have to import it: "
            "write it to a file, and give Python its name"
        )
    process.start()


def expect_guard(code: int | None) -> None:
    """Checks the exit code of a process.

    Raises:
        ScriptError: the main script has no guard.

    """
    if code == UNGUARDED:
        raise ScriptError(GUARD)
