"""Atomic and durable writes of files, and careful reading of files that others may have changed."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarl.support.errors import UsageError
from metarl.support.schema import expect

LARGEST = 256 * 2**20
"""Bytes of the largest text file that is read."""


@contextmanager
def expect_writable(path: Path, what: str = "") -> Iterator[None]:
    """In the block, an error of the disk is a UsageError: `<what> <path> cannot be written`."""
    try:
        yield
    except OSError as error:
        named = f"{what} {path}".lstrip()
        reason = " ".join(str(error.strerror or error).split())
        raise UsageError(f"{named} cannot be written: {reason}") from error


def expect_place(folder: Path) -> None:
    """Checks that a folder is there or can be made, before there is something to write into it.

    Raises:
        UsageError: a file is in its place, or it may not be written.

    """
    with expect_writable(folder):
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UsageError(f"{folder} cannot be written: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written: {os.strerror(errno.EACCES)}")


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file and waits until its content is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Replaces the content of a file atomically, and waits until it is on the disk.

    Raises:
        UsageError: it cannot be written; the file is as before.

    """
    # Each process has its own, because two may write the report of the same run.
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with expect_writable(path):
        try:
            write_durably(aside, data)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the entries of the folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        UsageError: it cannot be read, it is not a regular file, or it is larger than `largest`.

    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise UsageError(f"{path} cannot be read: it is not a regular file")
            if about.st_size > largest:
                raise UsageError(
                    f"{path} is damaged: it has {about.st_size:,} bytes, more than {largest:,}"
                )
            return file.read(about.st_size)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file; one that is a pipe has perhaps no writer yet."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_json(path: Path, hint: Any, remedy: str) -> Any:
    """The value in a JSON file, which has the annotated type.

    Args:
        path: the file.
        hint: the type, as `expect` knows it.
        remedy: what to do if the file is damaged.

    Raises:
        UsageError: it cannot be read, or it is damaged.

    """
    data = read_bytes(path)
    try:
        value = json.loads(data)
        expect(value, hint)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path} is damaged: {reason}; {remedy}") from error
    return value
