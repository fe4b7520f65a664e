"""Lists, prunes, pins and verifies the checkpoints of a run."""

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
from orchestrator.train.checkpoints.measured import WAITING_FILE, read_measured
from orchestrator.train.checkpoints.read import (
    check_digest,
    checked_sizes,
    compare_sizes,
    damage_reason,
    mark_damaged,
    unmark_damaged,
)


class Condition(StrEnum):
    """The condition of a checkpoint's folder."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    UNKNOWN = "of an unknown version"


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint's folder.

    Args:
        folder: the folder.
        step: how many steps the checkpoint holds.
        condition: as far as file sizes and marks tell.
        size_bytes: of all files in the folder.
        changed: when the checkpoint was saved, else when a file in the folder was last written; None when unknown.
        metrics: of the step, and what was measured later.
        pinned: whether it is never pruned.
        reason: what is wrong with it; empty when nothing is.
        waiting: whether it is to be measured, and therefore not pruned.
    """

    folder: Location
    step: int
    condition: Condition
    size_bytes: int
    changed: datetime | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    pinned: bool = False
    reason: str = ""
    waiting: bool = False


def list_checkpoints(run: RunFolder) -> list[CheckpointInfo]:
    """Return all checkpoints of a run, whole or not, by step.

    Raises:
        StorageError: the store is failing.
    """
    return [_checkpoint_info(folder) for folder in run.checkpoint_folders()]


def _checkpoint_info(folder: Location) -> CheckpointInfo:
    sizes = folder.sizes()
    condition, manifest, reason = _condition(folder, sizes)
    return CheckpointInfo(
        folder,
        checkpoint_step(folder),
        condition,
        sum(sizes.values()),
        datetime.fromisoformat(manifest.saved) if manifest and manifest.saved else folder.changed(),
        {**(manifest.metrics if manifest else {}), **read_measured(folder, sizes)},
        PINNED_FILE in sizes,
        reason,
        WAITING_FILE in sizes,
    )


def _condition(folder: Location, sizes: Mapping[str, int]) -> tuple[Condition, Manifest | None, str]:
    if MANIFEST_FILE not in sizes:
        return Condition.INCOMPLETE, None, "it has no manifest: it is being written, or writing it was interrupted"
    manifest = None
    try:
        manifest = read_manifest(folder)
        compare_sizes(folder, manifest, sizes)
    except DamagedError as error:
        return Condition.DAMAGED, manifest, str(error)
    except CheckpointError as error:
        return Condition.UNKNOWN, None, str(error)
    except StorageError:
        if has_vanished(folder):
            return Condition.INCOMPLETE, None, "it is being deleted"
        raise
    if DAMAGED_FILE in sizes:
        return Condition.DAMAGED, manifest, damage_reason(folder)
    return Condition.WHOLE, manifest, ""


ABANDONED_AFTER = timedelta(hours=1)
"""A folder without a manifest in which nothing was written for so long is no longer being written."""


def checkpoints_to_delete(
    entries: Sequence[CheckpointInfo], section: CheckpointSection, now: datetime
) -> list[CheckpointInfo]:
    """Return the checkpoints that retention allows to delete. Pure.

    The newest `keep` whole checkpoints are kept, so always at least one, and the `keep_best` best of those that have
    the metric. Damaged ones are kept for as long as whole ones of their age would be. Pinned ones are kept, those
    that are or may be being written, and those that are to be measured.

    Args:
        entries: all checkpoints of the run.
        section: the recipe's.
        now: the time.
    """
    whole = [entry for entry in entries if entry.condition is Condition.WHOLE]
    whole.sort(key=lambda entry: entry.step, reverse=True)
    newest = whole[: section.keep]
    retained = {entry.step for entry in [*newest, *_best(whole, section)]}
    oldest = newest[-1].step if len(newest) == section.keep else 0
    candidates = (entry for entry in entries if not (entry.pinned or entry.waiting) and entry.step not in retained)
    return [entry for entry in candidates if _may_be_deleted(entry, oldest, now)]


def _best(whole: Sequence[CheckpointInfo], section: CheckpointSection) -> list[CheckpointInfo]:
    """Return the best checkpoints; of equal ones the newer."""
    if section.metric is None:
        return []
    metric, sign = section.metric, -1.0 if section.mode == "max" else 1.0
    ranked = [entry for entry in whole if metric in entry.metrics]
    ranked.sort(key=lambda entry: sign * entry.metrics[metric])
    return ranked[: section.keep_best]


def _may_be_deleted(entry: CheckpointInfo, oldest: int, now: datetime) -> bool:
    """Return whether a checkpoint that is neither among the newest nor the best may be deleted."""
    match entry.condition:
        case Condition.WHOLE:
            return True
        case Condition.DAMAGED:
            return entry.step < oldest
        case Condition.INCOMPLETE:
            return entry.changed is not None and now - entry.changed > ABANDONED_AFTER
        case Condition.UNKNOWN:
            return False


def prune(run: RunFolder, section: CheckpointSection, now: datetime, dry_run: bool = False) -> list[CheckpointInfo]:
    """Delete the checkpoints that retention does not keep, and return them.

    Args:
        run: the run.
        section: which checkpoints are kept.
        now: the time.
        dry_run: delete nothing.

    Raises:
        StorageError: the store is failing, or refuses to delete.
    """
    entries = checkpoints_to_delete(list_checkpoints(run), section, now)
    for entry in [] if dry_run else entries:
        (
            entry.folder / MANIFEST_FILE
        ).delete()  # first, so that a half-deleted checkpoint is not taken for a damaged one
        entry.folder.delete()
    return entries


def pin(run: RunFolder, step: int, now: datetime) -> Location:
    """Protect the checkpoint of a step, and return it.

    Raises:
        RunError: there is none.
        CheckpointError: it is not whole.
        StorageError: the mark cannot be written.
    """
    entry = _find(run, step)
    if entry.condition is not Condition.WHOLE:
        raise CheckpointError(f"{entry.folder.uri}: is {entry.condition}: {entry.reason}. Pin a whole checkpoint.")
    (entry.folder / PINNED_FILE).write(json_bytes({"pinned": now.isoformat(timespec="seconds")}))
    return entry.folder


def unpin(run: RunFolder, step: int) -> Location:
    """Let the checkpoint of a step be pruned again, and return it.

    Raises:
        RunError: there is none.
        StorageError: the mark cannot be removed.
    """
    folder = _find(run, step).folder
    (folder / PINNED_FILE).delete()
    return folder


def _find(run: RunFolder, step: int) -> CheckpointInfo:
    by_step = {entry.step: entry for entry in list_checkpoints(run)}
    if step not in by_step:
        existing = f"there are those of {', '.join(map(str, by_step))}" if by_step else "there is none"
        raise RunError(f"{run.checkpoints.uri}: has no checkpoint of step {step}; {existing}.")
    return by_step[step]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Result of verifying a checkpoint.

    Args:
        entry: the checkpoint, with its true condition.
        unmark: whether it was marked as damaged before, but is whole.
    """

    entry: CheckpointInfo
    unmark: bool = False


def verify(run: RunFolder) -> Iterator[VerifyResult]:
    """Read every file of every checkpoint of a run, newest first; those being written or pruned are not read.

    Raises:
        StorageError: the store is failing; the remaining checkpoints are not verified.
    """
    for entry in reversed(list_checkpoints(run)):
        if entry.condition in (Condition.INCOMPLETE, Condition.UNKNOWN):
            yield VerifyResult(entry)
            continue
        try:
            reason = _damage(entry.folder)
        except StorageError:
            if has_vanished(entry.folder):
                continue
            raise
        if not (reason and has_vanished(entry.folder)):
            yield _result(entry, reason)


def update_damage_mark(result: VerifyResult, now: datetime) -> None:
    """Mark a damaged checkpoint, and remove the mark from one that is whole.

    Raises:
        StorageError: the mark cannot be written or removed.
    """
    if result.entry.condition is Condition.DAMAGED:
        mark_damaged(result.entry.folder, result.entry.reason, now)
    elif result.unmark:
        unmark_damaged(result.entry.folder)


def _result(entry: CheckpointInfo, reason: str) -> VerifyResult:
    condition = Condition.DAMAGED if reason else Condition.WHOLE
    marked = (entry.folder / DAMAGED_FILE).size() is not None
    return VerifyResult(replace(entry, condition=condition, reason=reason), unmark=marked and not reason)


def _damage(folder: Location) -> str:
    """Return what is wrong with a checkpoint's files; empty when nothing is."""
    try:
        manifest = read_manifest(folder)
        checked_sizes(folder, manifest)
        for name, record in manifest.files.items():
            check_digest(folder / name, record)
    except DamagedError as error:
        return str(error)
    return ""


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
