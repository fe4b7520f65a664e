"""What there is: the checkpoints of a run without reading their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from orchestrator.config.document import Document
from orchestrator.config.errors import RecipeError
from orchestrator.config.loading import validate
from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import (
    DAMAGED_FILE,
    MANIFEST_FILE,
    PINNED_FILE,
    RunError,
    RunFolder,
    checkpoint_step,
    json_bytes,
)
from orchestrator.train.checkpoints.manifest import CheckpointError, DamagedError, Manifest, has_vanished, read_manifest
from orchestrator.train.checkpoints.read import (
    check_digest,
    checked_sizes,
    compare_sizes,
    damage,
    mark_damaged,
    unmark_damaged,
)


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


# Which checkpoints stay: a decision from what there is, the recipe and the time.


UNFINISHED = timedelta(hours=1)
"""A folder without a manifest in which nothing was written for so long is not being written any more."""


def superfluous(found: Sequence[Entry], section: CheckpointSection, now: datetime) -> list[Entry]:
    """Return what may be deleted.

    The newest `keep` whole checkpoints stay, so always at least one, and the `keep_best` best of those that have the
    metric. Damaged ones stay for as long as whole ones of their age would. Pinned ones stay, and what is or may be
    being written.

    Args:
        found: all there is.
        section: the recipe's.
        now: the time.
    """
    whole = sorted((one for one in found if one.condition is Condition.WHOLE), key=lambda one: one.step, reverse=True)
    newest = whole[: section.keep]
    kept = {one.step for one in [*newest, *_best(whole, section)]}
    oldest = newest[-1].step if len(newest) == section.keep else 0
    return [one for one in found if not one.pinned and one.step not in kept and _useless(one, oldest, now)]


def _best(whole: Sequence[Entry], section: CheckpointSection) -> list[Entry]:
    """Return the best checkpoints; of equal ones the newer."""
    if section.metric is None:
        return []
    metric, sign = section.metric, -1.0 if section.mode == "max" else 1.0
    ranked = sorted((one for one in whole if metric in one.metrics), key=lambda one: sign * one.metrics[metric])
    return ranked[: section.keep_best]


def _useless(entry: Entry, oldest: int, now: datetime) -> bool:
    """Return whether a checkpoint that is neither among the newest nor the best can go."""
    match entry.condition:
        case Condition.WHOLE:
            return True
        case Condition.DAMAGED:
            return entry.step < oldest
        case Condition.INCOMPLETE:
            return entry.changed is not None and now - entry.changed > UNFINISHED
        case Condition.UNKNOWN:
            return False


# Deleting checkpoints that need not stay.


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


# Protecting a checkpoint from being pruned.


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


# Reading checkpoints from end to end to see whether they are what was written.


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


# What a run's recipe says about its checkpoints.


def checkpoint_section(run: RunFolder) -> CheckpointSection:
    """Return the section `checkpoint` of the recipe that a run was started with; its workload need not be installed.

    Raises:
        ConfigError: the recipe is damaged.
        StorageError: it cannot be read.
    """
    document = Document.parse(run.recipe.read().decode(), run.recipe.uri)
    section = validate(CheckpointSection, document.to_dict().get("checkpoint", {}), document)
    if isinstance(section, list):
        raise RecipeError(section)
    return section
