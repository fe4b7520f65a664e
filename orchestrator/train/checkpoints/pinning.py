"""Protecting a checkpoint from being pruned."""

from __future__ import annotations

from datetime import datetime

from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import PINNED_FILE, RunError, RunFolder, json_bytes
from orchestrator.train.checkpoints.errors import CheckpointError
from orchestrator.train.checkpoints.listing import Condition, Entry, list_checkpoints


def pin(run: RunFolder, step: int, now: datetime) -> Location:
    """Protect the checkpoint of a step, and return it.

    Raises:
        RunError: there is none.
        CheckpointError: it is not whole.
        StorageError: the mark cannot be written.
    """
    entry = _find(run, step)
    if entry.condition is not Condition.WHOLE:
        raise CheckpointError(f"{entry.place.uri}: is {entry.condition}: {entry.reason}. Pin a whole checkpoint.")
    (entry.place / PINNED_FILE).write(json_bytes({"pinned": now.isoformat(timespec="seconds")}))
    return entry.place


def unpin(run: RunFolder, step: int) -> Location:
    """Let the checkpoint of a step be pruned again, and return it.

    Raises:
        RunError: there is none.
        StorageError: the mark cannot be removed.
    """
    place = _find(run, step).place
    (place / PINNED_FILE).delete()
    return place


def _find(run: RunFolder, step: int) -> Entry:
    found = {entry.step: entry for entry in list_checkpoints(run)}
    if step not in found:
        there = f"there are those of {', '.join(map(str, found))}" if found else "there is none"
        raise RunError(f"{run.checkpoints.uri}: has no checkpoint of step {step}; {there}.")
    return found[step]
