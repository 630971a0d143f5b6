"""Atomic checkpoints: each is written to a temporary folder, synced, then renamed."""

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from metarl.support.errors import NonFiniteError, UsageError, is_out_of_memory
from metarl.support.files import (
    expect_writable,
    read_bytes,
    read_json,
    sync_folder,
    write_durably,
)
from metarl.support.finite import expect_finite_state
from metarl.support.forms import form_of
from metarl.support.schema import expect
from metarl.support.types import State

logger = logging.getLogger(__name__)

STATE = "state.pt"
MANIFEST = "manifest.json"
LARGEST_STATE = 2**40
"""Bytes of the largest state.pt that is read, if the manifest does not say how many it has."""
REMEDY = "delete this checkpoint"


class FileEntry(TypedDict):
    """A file in the manifest of a checkpoint."""

    sha256: str
    bytes: NotRequired[int]


class Manifest(TypedDict):
    """What is read of manifest.json."""

    files: dict[str, FileEntry]


class StateFile(TypedDict):
    """What every state has, besides that of the learner."""

    iteration: int
    seconds: NotRequired[float]
    config: NotRequired[dict[str, Any]]


def save_checkpoint(folder: Path, iteration: int, state: State, check: bool = False) -> Path:
    """Writes `state` (tensors and plain types) to `folder/000120` for iteration 120.

    Args:
        folder: of all checkpoints.
        iteration: that of the state.
        state: what `load_checkpoint` will return.
        check: whether to try first that it can be read again, which takes time and memory.

    Raises:
        NonFiniteError: the state holds an infinite number or NaN; nothing is written.
        UsageError: the disk cannot be written, or the state holds something else than tensors and
            plain types; older checkpoints are as before.

    """
    try:
        expect_finite_state(_learned(state))
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{error} after iteration {iteration}: no checkpoint was written"
        ) from None
    try:
        data = _packed(state)
        if check:
            _unpacked(data, iteration)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(
            f"no checkpoint can hold the state: {_unfit(state) or _reason(error)}; state() must "
            "return tensors and plain types"
        ) from error
    manifest = {
        "iteration": iteration,
        "files": {STATE: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}},
    }
    final = folder / f"{iteration:06d}"
    aside = folder / f".{final.name}.part"
    with expect_writable(final, "checkpoint"):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            write_durably(aside / STATE, data)
            write_durably(aside / MANIFEST, json.dumps(manifest, indent=2).encode())
            sync_folder(aside)
            if final.exists():  # it was damaged, or the run would have been resumed from there
                shutil.rmtree(final)
            os.rename(aside, final)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_folder(folder)
        sync_folder(folder.parent)
    return final


def clean_checkpoints(folder: Path) -> None:
    """Removes what a crash left of checkpoints that were being written or removed."""
    for aside in folder.glob(".*.part"):
        shutil.rmtree(aside, ignore_errors=True)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, from the oldest to the newest; names are iterations."""
    named = [path for path in folder.glob("[0-9]*") if path.name.isdecimal()]
    return sorted(named, key=lambda path: int(path.name))


def prune_checkpoints(folder: Path, keep: int, best: int | None) -> None:
    """Removes all but the newest `keep` checkpoints and that of iteration `best`."""
    clean_checkpoints(folder)
    for checkpoint in checkpoints_in(folder)[:-keep]:
        if int(checkpoint.name) != best:
            # Renamed first, so that a crash does not leave half a checkpoint under its name.
            aside = folder / f".{checkpoint.name}.part"
            os.rename(checkpoint, aside)
            shutil.rmtree(aside, ignore_errors=True)


def _learned(state: State) -> State:
    """The state without the options, whose numbers are the user's."""
    return {name: value for name, value in state.items() if name != "config"}


def _packed(state: object) -> bytes:
    """The bytes of state.pt."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes, iteration: int) -> State:
    """The state in the bytes of state.pt; any error says that there is none of this iteration."""
    state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    expect(state, StateFile)
    for name, value in _leaves_in(state):
        if isinstance(value, Tensor) and (
            value.layout is not torch.strided or value.is_meta or value.is_quantized
        ):
            raise ValueError(f"{name} is not an array of numbers")
    if state["iteration"] != iteration:
        raise ValueError(f"it is that of iteration {state['iteration']}")
    return state


def _reason(error: Exception) -> str:
    """Why a state cannot be read; torch's own message advises to read the file without care."""
    return str(error) if type(error) is ValueError else type(error).__name__


def _unfit(state: State) -> str:
    """What in a state can be written or read by no checkpoint; empty if each part alone can be."""
    for name, value in _leaves_in(state):
        try:
            torch.load(io.BytesIO(_packed(value)), weights_only=True)
        except Exception:
            return f"{name} is {form_of(value)}"
    return ""


def _leaves_in(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """All that is neither a dict nor a list in nested ones, each with its keys."""
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves_in(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def load_checkpoint(checkpoint: Path) -> State:
    """Loads the state of a checkpoint and compares its hash with the manifest.

    Raises:
        UsageError: a file is missing or has changed since it was written, or the state holds an
            infinite number or NaN.

    """
    manifest: Manifest = read_json(checkpoint / MANIFEST, Manifest, REMEDY)
    if STATE not in manifest["files"]:  # no other name is looked at
        raise UsageError(f"{checkpoint / MANIFEST} is damaged: it does not list {STATE}; {REMEDY}")
    expected = manifest["files"][STATE]
    data = read_bytes(checkpoint / STATE, expected.get("bytes", LARGEST_STATE))
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise UsageError(
            f"checkpoint {checkpoint} is damaged: the SHA-256 of {STATE} is not that of "
            f"{MANIFEST}; {REMEDY}"
        )
    try:
        state = _unpacked(data, int(checkpoint.name))
    except Exception as error:  # whatever the bytes make of the unpickler
        raise UsageError(
            f"{STATE} of checkpoint {checkpoint} cannot be read: {_reason(error)}; {REMEDY}"
        ) from error
    try:
        expect_finite_state(_learned(state))
    except NonFiniteError as error:  # an earlier version wrote such checkpoints
        raise UsageError(
            f"checkpoint {checkpoint} is of a run that diverged: {error}; {REMEDY}"
        ) from None
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
