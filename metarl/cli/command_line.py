"""What every command does with errors: each is printed on one line."""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator

from metarl.support.errors import UsageError

DEBUG = "METARL_DEBUG"
"""Environment variable: 1 prints the traceback of a one-line error."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns a `UsageError` in the block into one line on standard error and exit status 2.

    METARL_DEBUG=1 in the environment prints the traceback before the line. If the reader of the
    output stops before its end, as `head` does, the program exits without a message.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(1) from None
    except UsageError as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
