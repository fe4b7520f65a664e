"""What there is: the checkpoints of a run without reading their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import DAMAGED_FILE, MANIFEST_FILE, PINNED_FILE, RunFolder, checkpoint_step
from orchestrator.train.checkpoints.damage_mark import damage
from orchestrator.train.checkpoints.errors import CheckpointError, DamagedError
from orchestrator.train.checkpoints.manifest import Manifest, has_vanished, read_manifest
from orchestrator.train.checkpoints.reading import compare_sizes


class Condition(StrEnum):
    """What a checkpoint's folder is worth."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    UNKNOWN = "of an unknown version"


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint's folder.

    Args:
        place: the folder.
        step: how many steps the checkpoint holds.
        condition: what it is worth, as far as sizes and marks tell.
        size_bytes: of all files in the folder.
        changed: when the checkpoint was saved, or a file in the folder was written last; None when unknown.
        metrics: figures of the step.
        pinned: whether it is never pruned.
        reason: what is wrong with it; empty when nothing is.
    """

    place: Location
    step: int
    condition: Condition
    size_bytes: int
    changed: datetime | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    pinned: bool = False
    reason: str = ""


def list_checkpoints(run: RunFolder) -> list[Entry]:
    """Return what is in a run's folder of checkpoints, by step.

    Raises:
        StorageError: the store is failing.
    """
    return [_entry(place) for place in run.checkpoint_folders()]


def _entry(place: Location) -> Entry:
    sizes = place.sizes()
    condition, manifest, reason = _look(place, sizes)
    return Entry(
        place,
        checkpoint_step(place),
        condition,
        sum(sizes.values()),
        datetime.fromisoformat(manifest.saved) if manifest and manifest.saved else place.changed(),
        manifest.metrics if manifest else {},
        PINNED_FILE in sizes,
        reason,
    )


def _look(place: Location, sizes: Mapping[str, int]) -> tuple[Condition, Manifest | None, str]:
    if MANIFEST_FILE not in sizes:
        return Condition.INCOMPLETE, None, "it has no manifest: it is being written, or its writing broke off"
    manifest = None
    try:
        manifest = read_manifest(place)
        compare_sizes(place, manifest, sizes)
    except DamagedError as error:
        return Condition.DAMAGED, manifest, str(error)
    except CheckpointError as error:
        return Condition.UNKNOWN, None, str(error)
    except StorageError:
        if has_vanished(place):
            return Condition.INCOMPLETE, None, "it is being deleted"
        raise
    if DAMAGED_FILE in sizes:
        return Condition.DAMAGED, manifest, damage(place)
    return Condition.WHOLE, manifest, ""
