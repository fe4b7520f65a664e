"""Which checkpoints stay: a decision from what there is, the recipe and the time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from orchestrator.config.recipe import CheckpointSection
from orchestrator.train.checkpoints.listing import Condition, Entry

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
