"""What every command does with errors: each is printed on one line."""

import contextlib
import errno
import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator

from metarl.support.errors import FamilyError, RankError, UsageError, is_out_of_memory
from metarl.support.places import described, place_in_called_code, text_of
from metarl.support.signals import interruptible, is_request_to_end
from metarl.support.text import one_line

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""Environment variable that torchrun sets in the processes that it starts."""
OF_THE_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    errno.ENAMETOOLONG,
)
"""Numbers of errors of a full, broken or protected disk, and of names that no disk takes."""
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
    if not faulthandler.is_enabled():  # a segmentation fault shows the line of Python, too
        faulthandler.enable()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level)
    try:
        with interruptible():
            yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(1) from None
    except (UsageError, RankError) as error:
        if _wants_traceback():
            traceback.print_exc()
        if (where := _first_to_tell()) is not None:
            print(f"error: {where}{one_line(str(error))}", file=sys.stderr, flush=True)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None
    except BaseException as error:  # also the SystemExit of the user's code
        if error.__traceback__ is not None:  # this frame did not call what failed
            error.__traceback__ = error.__traceback__.tb_next
        if is_request_to_end(error):
            print(f"interrupted{f': {error}' if str(error) else ''}", file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGINT) from None
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


def _one_line(error: BaseException) -> str | None:
    """An error of the user's own code or of the disk, or a missing package; None for others."""
    hint = f"{DEBUG}=1 shows the traceback"
    if isinstance(error, FamilyError):
        return f"{error}; {hint}"
    if is_out_of_memory(error):
        lower = "--task-chunk, --meta-batch-size, --episodes, --fisher-fraction or --hidden-sizes"
        return f"there is not enough memory: try a lower {lower}; {text_of(error)} ({hint})"
    if place_in_called_code(error) is not None:
        return f"{described(error).removesuffix(')')}; {hint})"
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return f"{error.filename or 'standard output'}: {error.strerror}"
    if type(error).__name__ == "DependencyNotInstalled":
        return f"{type(error).__name__}: {error}"
    return None


def _first_to_tell() -> str | None:
    """Which process this is, if no other one of torchrun has told of an error; otherwise None."""
    if LAUNCHED not in os.environ:  # the import of torch takes a second
        return ""
    from metarl.support.ranks import described, first_to_tell

    return described() if first_to_tell() else None
