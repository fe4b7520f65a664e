"""Reading checkpoints from end to end to see whether they are what was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import DAMAGED_FILE, RunFolder
from orchestrator.train.checkpoints.damage_mark import mark_damaged, unmark_damaged
from orchestrator.train.checkpoints.errors import DamagedError
from orchestrator.train.checkpoints.listing import Condition, Entry, list_checkpoints
from orchestrator.train.checkpoints.manifest import has_vanished, read_manifest
from orchestrator.train.checkpoints.reading import check_digest, checked_sizes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What reading a checkpoint showed.

    Args:
        entry: the checkpoint as it was found to be.
        unmark: whether it was marked as damaged before, but is whole.
    """

    entry: Entry
    unmark: bool = False


def verify(run: RunFolder) -> Iterator[Verdict]:
    """Read every file of every checkpoint of a run, newest first; those being written or pruned are left alone.

    Raises:
        StorageError: the store is failing; nothing is known about what has not been yielded yet.
    """
    for entry in reversed(list_checkpoints(run)):
        if entry.condition in (Condition.INCOMPLETE, Condition.UNKNOWN):
            yield Verdict(entry)
            continue
        try:
            reason = _damage(entry.place)
        except StorageError:
            if has_vanished(entry.place):
                continue
            raise
        if not (reason and has_vanished(entry.place)):
            yield _verdict(entry, reason)


def keep_record(verdict: Verdict, now: datetime) -> None:
    """Mark a checkpoint that is damaged, and take the mark off one that is not.

    Raises:
        StorageError: the mark cannot be written or removed.
    """
    if verdict.entry.condition is Condition.DAMAGED:
        mark_damaged(verdict.entry.place, verdict.entry.reason, now)
    elif verdict.unmark:
        unmark_damaged(verdict.entry.place)


def _verdict(entry: Entry, reason: str) -> Verdict:
    condition = Condition.DAMAGED if reason else Condition.WHOLE
    marked = (entry.place / DAMAGED_FILE).size() is not None
    return Verdict(replace(entry, condition=condition, reason=reason), unmark=marked and not reason)


def _damage(place: Location) -> str:
    """Return what is wrong with a checkpoint's files; empty when nothing is."""
    try:
        manifest = read_manifest(place)
        checked_sizes(place, manifest)
        for name, record in manifest.files.items():
            check_digest(place / name, record)
    except DamagedError as error:
        return str(error)
    return ""
