"""Atomic checkpoints: each is written to a temporary folder, synced, then renamed."""

import hashlib
import io
import json
import logging
import os
import shutil
from pathlib import Path

import torch

from metarl.support.errors import NonFiniteError, UsageError
from metarl.support.files import sync_folder, write_durably
from metarl.support.finite import expect_finite_state
from metarl.support.types import State

logger = logging.getLogger(__name__)

STATE = "state.pt"
MANIFEST = "manifest.json"


def save_checkpoint(folder: Path, iteration: int, state: State) -> Path:
    """Writes `state` (tensors and plain types) to `folder/000120` for iteration 120.

    Raises:
        NonFiniteError: the state holds an infinite number or NaN; nothing is written.

    """
    try:
        expect_finite_state(state)
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{error} after iteration {iteration}: no checkpoint was written"
        ) from None
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    manifest = {
        "iteration": iteration,
        "files": {STATE: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}},
    }
    final = folder / f"{iteration:06d}"
    aside = folder / f".{final.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_durably(aside / STATE, data)
    write_durably(aside / MANIFEST, json.dumps(manifest, indent=2).encode())
    if final.exists():  # a run resumed from an earlier one has reached the same state again
        shutil.rmtree(final)
    os.rename(aside, final)
    sync_folder(folder)
    return final


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, from the oldest to the newest; names are iterations."""
    named = [path for path in folder.glob("[0-9]*") if path.name.isdecimal()]
    return sorted(named, key=lambda path: int(path.name))


def prune_checkpoints(folder: Path, keep: int, best: int | None) -> None:
    """Removes all but the newest `keep` checkpoints and that of iteration `best`."""
    for checkpoint in checkpoints_in(folder)[:-keep]:
        if int(checkpoint.name) != best:
            # Renamed first, so that a crash does not leave half a checkpoint under its name.
            aside = folder / f".{checkpoint.name}.part"
            os.rename(checkpoint, aside)
            shutil.rmtree(aside, ignore_errors=True)


def load_checkpoint(checkpoint: Path) -> State:
    """Loads the state of a checkpoint and compares its hash with the manifest.

    Raises:
        UsageError: a file is missing or has changed since it was written, or the state holds an
            infinite number or NaN.

    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        data = (checkpoint / STATE).read_bytes()
        expected = manifest["files"][STATE]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"checkpoint {checkpoint} is incomplete: {error}") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise UsageError(
            f"checkpoint {checkpoint} is damaged: the SHA-256 of {STATE} is not that of {MANIFEST}"
        )
    try:
        state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make of the unpickler
        # Torch's own message advises to read the file without care.
        raise UsageError(
            f"{STATE} of checkpoint {checkpoint} cannot be read: {type(error).__name__}"
        ) from error
    try:
        expect_finite_state(state)
    except NonFiniteError as error:  # an earlier version wrote such checkpoints
        raise UsageError(f"checkpoint {checkpoint} is of a run that diverged: {error}") from None
    return state


def load_newest(folder: Path) -> State | None:
    """Loads the newest intact checkpoint; damaged ones are skipped with a warning.

    Returns:
        None if there is no checkpoint.

    Raises:
        UsageError: there are checkpoints, but none is intact.

    """
    checkpoints = checkpoints_in(folder)
    for checkpoint in reversed(checkpoints):
        try:
            return load_checkpoint(checkpoint)
        except UsageError as error:
            logger.warning("%s; trying the checkpoint before it", error)
    if checkpoints:
        raise UsageError(f"no checkpoint in {folder} is intact")
    return None
