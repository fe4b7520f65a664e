"""The mark on a checkpoint that was found damaged."""

from __future__ import annotations

from datetime import datetime

from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import DAMAGED_FILE, MANIFEST_FILE, json_bytes
from orchestrator.train.checkpoints.errors import CheckpointError
from orchestrator.train.checkpoints.sealed import parse_object


def mark_damaged(place: Location, reason: str, now: datetime) -> None:
    """Mark a checkpoint as damaged, so that it is passed over from now on; nothing happens when it is gone.

    Args:
        place: the checkpoint.
        reason: what was found, for people.
        now: the time.

    Raises:
        StorageError: the mark cannot be written.
    """
    if (place / MANIFEST_FILE).size() is not None:
        (place / DAMAGED_FILE).write(json_bytes({"reason": reason, "found": now.isoformat(timespec="seconds")}))


def unmark_damaged(place: Location) -> None:
    """Take the mark off a checkpoint that is whole again.

    Raises:
        StorageError: the mark cannot be removed.
    """
    (place / DAMAGED_FILE).delete()


def damage(place: Location) -> str:
    """Return why a checkpoint was marked as damaged."""
    location = place / DAMAGED_FILE
    try:
        return str(parse_object(location.read(), location.uri).get("reason", "no reason given"))
    except CheckpointError as error:
        return str(error)
