"""Deleting checkpoints that need not stay."""

from __future__ import annotations

from datetime import datetime

from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.run_folder import MANIFEST_FILE, RunFolder
from orchestrator.train.checkpoints.listing import Entry, list_checkpoints
from orchestrator.train.checkpoints.retention import superfluous


def prune(run: RunFolder, section: CheckpointSection, now: datetime, dry_run: bool = False) -> list[Entry]:
    """Delete the checkpoints that need not stay and return them.

    Args:
        run: the run.
        section: which stay.
        now: the time.
        dry_run: delete nothing.

    Raises:
        StorageError: the store is failing, or refuses.
    """
    entries = superfluous(list_checkpoints(run), section, now)
    for entry in [] if dry_run else entries:
        (entry.place / MANIFEST_FILE).delete()  # first, so that nobody takes what is half deleted for damaged
        entry.place.delete()
    return entries
