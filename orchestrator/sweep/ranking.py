"""Which configurations of a sweep are the best so far: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean

from orchestrator.sweep.folder import TrialRecord

SIGNS = {"min": -1.0, "max": 1.0}


def outcomes(records: Sequence[TrialRecord]) -> dict[int, tuple[float, ...]]:
    """Return the objectives of configurations by their number, means over the replicas.

    As soon as a trial has come to its end, only those that did count: the others have seen fewer samples. Trials that
    failed, and figures that are no numbers, never count.
    """
    reported = [one for one in records if one.status != "FAILED" and one.points and _finite(one)]
    whole = [one for one in reported if one.status == "FINISHED"]
    values: dict[int, list[tuple[float, ...]]] = {}
    for record in whole or reported:
        values.setdefault(record.number, []).append(record.points[-1].values)
    return {number: tuple(map(fmean, zip(*found, strict=True))) for number, found in values.items()}


def best(outcomes: Mapping[int, Sequence[float]], modes: Sequence[str]) -> frozenset[int]:
    """Return the numbers of the configurations that no other one beats: one, or the front of a trade-off.

    Args:
        outcomes: of the objectives, by number.
        modes: min or max, of each objective.
    """
    signed = {number: signs(values, modes) for number, values in outcomes.items()}
    return frozenset(
        number for number, own in signed.items() if not any(_beats(other, own) for other in signed.values())
    )


def signs(values: Sequence[float], modes: Sequence[str]) -> tuple[float, ...]:
    """Return values of objectives so that large ones are good."""
    return tuple(SIGNS[mode] * value for mode, value in zip(modes, values, strict=True))


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _finite(record: TrialRecord) -> bool:
    return all(map(isfinite, record.points[-1].values))
