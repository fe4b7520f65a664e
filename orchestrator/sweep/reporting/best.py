"""Which configurations are best: among those that were trained to their end with every replica, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.sweep.folder import TrialRecord
from orchestrator.sweep.ranking import SIGNS, best, signs
from orchestrator.sweep.reporting.configurations import Configuration

Mode = Literal["min", "max"]

WHY = {
    "early": "stopped early",
    "incomplete": "not every replica ended well",
    "open": "not over",
    "failed": "failed",
    "whole": "its objective is no finite number",
}
"""Why a configuration was not among those that the best was chosen from, by its outcome."""


@dataclass(frozen=True, slots=True)
class Best:
    """What was chosen, and from what.

    Args:
        first: the best by the first objective; None when no configuration qualifies.
        front: those that no other one beats in every objective, by number; with one objective the best alone.
        left_out: configurations that were not considered.
    """

    first: Configuration | None
    front: tuple[Configuration, ...]
    left_out: tuple[Configuration, ...]


def choose(found: Sequence[Configuration], modes: Sequence[Mode]) -> Best:
    """Return the best configurations by the means over their replicas; of equals, the one with the lower number.

    Args:
        found: by number.
        modes: of the objectives.
    """
    candidates = [one for one in found if one.outcome == "whole" and one.scores]
    left_out = tuple(one for one in found if one not in candidates)
    if not candidates:
        return Best(None, (), left_out)
    means = {one.number: one.means for one in candidates}
    first = max(candidates, key=lambda one: signs(one.means, modes))
    if len(modes) == 1:
        return Best(first, (first,), left_out)
    front = best(means, modes)
    return Best(first, tuple(one for one in candidates if one.number in front), left_out)


def best_replica(one: Configuration, mode: Mode) -> TrialRecord:
    """Return the replica of a whole configuration that came out best in the first objective."""
    return max(one.replicas, key=lambda record: SIGNS[mode] * record.points[-1].values[0])
