"""Atomic and durable writes of files."""

import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file and waits until its content is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Replaces the content of a file atomically, and waits until it is on the disk."""
    aside = path.with_name(f".{path.name}.part")
    write_durably(aside, data)
    os.replace(aside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the entries of the folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
