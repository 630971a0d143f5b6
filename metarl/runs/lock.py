"""The lock of a run folder, by which one process at a time trains in it."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import IO

from metarl.support.errors import InUseError
from metarl.support.files import expect_writable

logger = logging.getLogger(__name__)

LOCK = "lock"
HELD = (errno.EAGAIN, errno.EACCES)
"""What flock says of a file that another process has locked; anything else is not about that."""


class FolderLock:
    """The lock of a folder, held from its creation to `release`."""

    def __init__(self, folder: Path, name: str = LOCK):
        """Makes the folder, and takes the lock of that name.

        Raises:
            InUseError: another process has it.
            UsageError: the folder cannot be written.

        """
        self._folder, self._path = folder, folder / name
        with expect_writable(folder, "run folder"):
            folder.mkdir(parents=True, exist_ok=True)
        self._take()

    def keep(self) -> None:
        """Takes the lock again if its file was deleted.

        Raises:
            InUseError: another process has used the folder since.

        """
        if self._is_ours():
            return
        if self._path.exists():
            raise InUseError(
                f"run folder {self._folder} was taken by another process after its lock was "
                "deleted: this run ends"
            )
        self._file.close()
        self._take()

    def release(self) -> None:
        """Lets other processes have the folder."""
        try:
            if self._is_ours():
                self._file.truncate(0)
        except OSError:
            pass  # a full disk, for example; without the process, the lock is nobody's
        self._file.close()

    def remove(self) -> None:
        """Deletes the lock, and the folder if nothing else is in it."""
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._path.unlink()
                self._folder.rmdir()

    def _take(self) -> None:
        with expect_writable(self._folder, "run folder"):
            self._file: IO[str] = open(self._path, "a+")  # noqa: SIM115 (until release)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                self._refuse()
            self._take_without_locks(error)
        with expect_writable(self._folder, "run folder"):
            self._file.truncate(0)
            self._file.write(f"{_described(os.getpid())}\n")
            self._file.flush()

    def _take_without_locks(self, error: OSError) -> None:
        """Takes the folder unless its file names a process of this machine that is alive."""
        if is_alive(self._owner()):
            self._refuse()
        logger.warning(
            "run folder %s cannot be locked (%s): do not train in it from another machine",
            self._folder,
            error.strerror,
        )

    def _is_ours(self) -> bool:
        """Whether the file in the folder is still the one that was locked."""
        if self._file.closed:
            return False
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False
        except OSError:  # nothing is known of it
            return True

    def _owner(self) -> str:
        self._file.seek(0)
        return self._file.read(1000).strip()

    def _refuse(self) -> None:
        owner = self._owner() or "another process"
        self._file.close()
        raise InUseError(f"run folder {self._folder} is in use by {owner}")


def is_in_use(folder: Path) -> bool:
    """Whether a process, perhaps on another machine, trains in the folder."""
    if not (folder / LOCK).exists():
        return False
    with open(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in HELD or is_alive(file.read(1000).strip())
    return False


def is_alive(owner: str) -> bool:
    """Whether the owner that a lock names is another living process of this machine."""
    words = owner.split()
    if len(words) != 4 or not words[1].isdecimal():
        return False
    process = int(words[1])
    if owner != _described(process) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _described(process: int) -> str:
    return f"process {process} on {socket.gethostname()}"
