"""What is measured of a checkpoint after it was saved: the mark that it is waited for, and the metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping

from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import MANIFEST_FILE, RunFolder, json_bytes

WAITING_FILE = "to-measure.json"
"""Says that a checkpoint is to be measured; it is not deleted meanwhile."""

MEASURED_FILE = "measured.json"


def mark_waiting(folder: Location) -> None:
    """Mark a checkpoint that is to be measured, before it is committed.

    Raises:
        StorageError: the mark cannot be written.
    """
    (folder / WAITING_FILE).write(json_bytes({"waiting": True}))


def measured_later(run: RunFolder) -> list[Location]:
    """Return the committed checkpoints that are to be measured, in the order of their steps.

    Raises:
        StorageError: the store is failing.
    """
    return [folder for folder in run.checkpoint_folders() if {WAITING_FILE, MANIFEST_FILE} <= folder.sizes().keys()]


def end_wait(folder: Location) -> None:
    """Let a checkpoint be deleted again.

    Raises:
        StorageError: the mark cannot be removed.
    """
    (folder / WAITING_FILE).delete()


def write_measured(folder: Location, metrics: Mapping[str, float]) -> None:
    """Keep the metrics of a checkpoint with it; non-finite ones are left out.

    Raises:
        StorageError: they cannot be written.
    """
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    (folder / MEASURED_FILE).write(json_bytes({"metrics": finite}))


def read_measured(folder: Location, names: Collection[str]) -> dict[str, float]:
    """Return the metrics that were measured of a checkpoint, none when they are missing or damaged.

    Args:
        folder: of the checkpoint.
        names: of the files in it.

    Raises:
        StorageError: they cannot be read.
    """
    if MEASURED_FILE not in names:
        return {}
    try:
        metrics = json.loads((folder / MEASURED_FILE).read())["metrics"]
        return {str(name): float(value) for name, value in metrics.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
