"""What every command does with errors: each is printed on one line."""

import contextlib
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator

from metarl.support.errors import RankError, UsageError, WorkerError
from metarl.support.places import place_in_called_code, place_in_trace
from metarl.support.text import one_line

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""Environment variable that torchrun sets in the processes that it starts."""
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of errors that a full, broken or protected disk causes."""
DEBUG = "METARL_DEBUG"
"""Environment variable: 1 prints the traceback of a one-line error."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns a `UsageError` in the block into one line on standard error and exit status 2.

    Ctrl-C is one line too, with status 130.
    An error of the user's own code that metarl calls is one line too, with its place and status 1.
    METARL_DEBUG=1 in the environment prints the traceback before the line. If the reader of the
    output stops before its end, as `head` does, the program exits without a message.
    """
    follows = LAUNCHED in os.environ and os.environ["RANK"] != "0"
    level = logging.ERROR if follows else logging.WARNING
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level)
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        if _wants_traceback():
            traceback.print_exc()
        print(f"interrupted{f': {error}' if str(error) else ''}", file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGINT) from None
    except (UsageError, RankError) as error:
        if _wants_traceback():
            traceback.print_exc()
        if (where := _first_to_tell()) is not None:
            print(f"error: {where}{one_line(str(error))}", file=sys.stderr, flush=True)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None
    except Exception as error:
        line = _one_line(error)
        if line is None or _wants_traceback():
            _first_to_tell()  # Python prints the traceback; other processes have nothing to add
            raise
        if (where := _first_to_tell()) is not None:
            print(f"error: {where}{one_line(line)}", file=sys.stderr, flush=True)
        try:
            sys.stdout.flush()
        except OSError:  # a file on a full disk
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(1) from None


def _wants_traceback() -> bool:
    return os.environ.get(DEBUG, "0") not in ("", "0")


def _one_line(error: Exception) -> str | None:
    """An error of the user's own code or of the disk, or a missing package; None for others."""
    hint = f"{DEBUG}=1 shows the traceback"
    if isinstance(error, WorkerError):
        where, *trace = str(error).rstrip().split("\n")
        if not trace:
            return where
        return f"{where} {trace[-1]} ({place_in_trace(trace)}; {hint})"
    place = place_in_called_code(error)
    if place is None and isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return f"{error.filename or 'standard output'}: {error.strerror}"
    if place is None and type(error).__name__ != "DependencyNotInstalled":
        return None
    text = f"{type(error).__name__}: {error}"
    return f"{text} ({place}; {hint})" if place else text


def _first_to_tell() -> str | None:
    """Which process this is, if no other one of torchrun has told of an error; otherwise None."""
    if LAUNCHED not in os.environ:  # the import of torch takes a second
        return ""
    from metarl.support.ranks import described, first_to_tell

    return described() if first_to_tell() else None
