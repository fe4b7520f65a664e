"""Which configurations are best: among those that were trained to their end with every replica, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.sweep.folder import TrialRecord
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
    losses = {one.number: losses_of(one, modes) for one in candidates}
    first = min(candidates, key=lambda one: losses[one.number])
    if len(modes) == 1:
        return Best(first, (first,), left_out)
    front = [
        one for one in candidates if not any(_beats(losses[other.number], losses[one.number]) for other in candidates)
    ]
    return Best(first, tuple(front), left_out)


def losses_of(one: Configuration, modes: Sequence[Mode]) -> tuple[float, ...]:
    """Return the means of the objectives, with signs so that small is good."""
    return tuple(score.mean if mode == "min" else -score.mean for score, mode in zip(one.scores, modes, strict=True))


def best_replica(one: Configuration, mode: Mode) -> TrialRecord:
    """Return the replica of a whole configuration that came out best in the first objective."""
    sign = 1 if mode == "min" else -1
    return min(one.replicas, key=lambda record: sign * record.points[-1].values[0])


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other
