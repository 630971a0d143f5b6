"""The calls by which a process changes files, each of which can end the process or fail."""

import builtins
import io
import os
import signal
from pathlib import Path

CHANGES = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "truncate")
"""Functions of `os` that change a folder or a file, by its path."""


class Calls:
    """Counts the calls of this process that change files below a folder.

    `act(number, kind, path)` is called before each of them, and may end the process or raise what
    the call would raise. `torn(number)` says whether only half of a write is done before it.
    """

    def __init__(self, folder, act, torn=lambda number: False):
        self.folder, self.act, self.torn = str(folder), act, torn
        self.made = []

    def before(self, kind, path, half=None):
        """Counts a call; `half` does a part of it."""
        self.made.append((kind, os.path.relpath(str(path), self.folder)))
        number = len(self.made)
        if half is not None and self.torn(number):
            half()
        self.act(number, kind, path)

    def install(self):
        """Counts from now on, to the end of the process."""
        for name in CHANGES:
            setattr(os, name, self._counted(name, getattr(os, name)))
        fsync, opened = os.fsync, builtins.open

        def counted_fsync(descriptor):
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            path = os.readlink(f"/proc/self/fd/{number}")
            if self._is_below(path):
                self.before("fsync", path)
            fsync(descriptor)

        def counted_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None,
                         closefd=True, opener=None):  # fmt: skip
            if not set(mode) & set("wax+") or not self._is_below(file):
                return opened(file, mode, buffering, encoding, errors, newline, closefd, opener)
            self.before("open", file)
            raw = _Raw(file, mode.replace("b", "").replace("t", ""), self)
            if not buffering:
                return raw
            buffer = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

        os.fsync, builtins.open, io.open = counted_fsync, counted_open, counted_open

    def _counted(self, name, original):
        def call(path, *arguments, **options):
            if options.get("dir_fd") is not None:
                where = Path(os.readlink(f"/proc/self/fd/{options['dir_fd']}"), path)
            else:
                where = path
            if self._is_below(where):
                self.before(name, where)
            return original(path, *arguments, **options)

        return call

    def _is_below(self, path):
        if isinstance(path, int):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder)


class _Raw(io.FileIO):
    """A file whose every write is counted: it is not buffered."""

    def __init__(self, path, mode, calls):
        super().__init__(path, mode)
        self._calls, self._path = calls, path

    def write(self, data):
        write = super().write
        half = memoryview(data)[: len(data) // 2]
        self._calls.before("write", os.fsdecode(self._path), lambda: write(half))
        return write(data)

    def truncate(self, size=None):
        self._calls.before("truncate", os.fsdecode(self._path))
        return super().truncate(size)


def end_at(last):
    """Ends the process before call number `last`."""

    def act(number, kind, path):
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return act
