"""Which configurations of a sweep are the best so far: pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from statistics import fmean, stdev
from typing import Literal

from orchestrator.config.errors import FuserayError
from orchestrator.config.sweep import Assignment
from orchestrator.storage.run_folder import RunFolder
from orchestrator.sweep.folder import Point, SweepFolder, TrialRecord
from orchestrator.track.cost import Costs, RunCost, read_starts, total_cost

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


# What the trials of a sweep have used, each with all of its runs.


READERS = 8


class TrialSpending:
    """Reads what trials have used, again and again; what can no longer change is read once.

    Args:
        folder: the sweep's folder.
        strict: whether a damaged record is an error; otherwise its trial is left out.
    """

    def __init__(self, folder: SweepFolder, strict: bool = False) -> None:
        self._folder = folder
        self._strict = strict
        self._ended: dict[str, RunCost] = {}

    def read(self, trials: Sequence[TrialRecord]) -> dict[str, RunCost]:
        """Return what trials have used, by name; without those of which nobody can tell.

        Raises:
            CostRecordError: the record of a trial's machines is damaged, and that is an error.
            StorageError: storage cannot be reached.
        """
        runs = self._folder.runs()
        left = [one for one in trials if one.name not in self._ended and one.name in runs]
        with ThreadPoolExecutor(READERS, thread_name_prefix="costs") as readers:
            found = list(readers.map(lambda one: self._spent(runs[one.name]), left))
        known = {one.name: spent for one, spent in zip(left, found, strict=True) if spent is not None}
        self._ended |= {one.name: known[one.name] for one in left if one.is_over and one.name in known}
        return self._ended | known

    def _spent(self, runs: Sequence[RunFolder]) -> RunCost | None:
        try:
            costs = [Costs(read_starts(run.costs)) for run in runs]
        except FuserayError:
            if self._strict:
                raise
            return None
        return total_cost(one.spent() for one in costs) if any(costs) else None


# Configurations and what they came to: the replicas of each put together, at equal numbers of samples.


Outcome = Literal["whole", "early", "incomplete", "open", "failed"]
"""whole: every replica came to its end; early: stopped before; incomplete: replicas failed or are missing; open: not
over; failed: every replica failed."""

COMPARED = 0.9
"""Share of the configurations that must have come as far as the samples at which they are compared."""


@dataclass(frozen=True, slots=True)
class Score:
    """An objective over the replicas of a configuration.

    Args:
        values: one per replica, at least one.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Their sample standard deviation; None for one replica."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration with its replicas.

    Args:
        number: of the configuration.
        assignment: values of the searched keys.
        replicas: its trials, by replica.
        planned: how many replicas there are to be.
        going_on: whether the sweep may still start those that are missing.
    """

    number: int
    assignment: Assignment
    replicas: tuple[TrialRecord, ...]
    planned: int
    going_on: bool = False

    @property
    def outcome(self) -> Outcome:
        """How it ended, or that it has not."""
        statuses = [one.status for one in self.replicas]
        if any(not one.is_over for one in self.replicas):
            return "open"
        if all(status == "FAILED" for status in statuses):
            return "failed"
        if "FAILED" in statuses:
            return "incomplete"
        if "STOPPED" in statuses:
            return "early"
        if len(statuses) < self.planned:
            return "open" if self.going_on else "incomplete"
        return "whole"

    @property
    def counted(self) -> tuple[TrialRecord, ...]:
        """The replicas that have a value and did not fail."""
        return tuple(one for one in self.replicas if one.status != "FAILED" and one.points)

    @property
    def samples(self) -> int:
        """Samples that each of the counted replicas has seen; 0 when there is none."""
        return min((one.points[-1].samples for one in self.counted), default=0)

    @property
    def scores(self) -> tuple[Score, ...]:
        """The objectives where the counted replicas can be compared; empty when there is none or one is not finite."""
        return self.at(self.samples)

    @property
    def means(self) -> tuple[float, ...]:
        """The means of these objectives."""
        return tuple(score.mean for score in self.scores)

    def at(self, samples: int) -> tuple[Score, ...]:
        """Return the objectives after some samples; empty if a counted replica did not come so far or has no number."""
        found = [_value(one.points, samples) for one in self.counted]
        values = [one for one in found if one is not None and all(map(math.isfinite, one))]
        if not values or len(values) < len(found):
            return ()
        return tuple(Score(one) for one in zip(*values, strict=True))

    @property
    def reasons(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of every replica that failed."""
        return tuple((one.name, one.reason) for one in self.replicas if one.status == "FAILED")


def configurations(records: Sequence[TrialRecord], planned: int, going_on: bool) -> tuple[Configuration, ...]:
    """Put the trials of a sweep together.

    Args:
        records: by number and replica.
        planned: replicas per configuration.
        going_on: whether the sweep still runs.
    """
    return tuple(
        Configuration(number, replicas[0].assignment, replicas, planned, going_on)
        for number, replicas in ((number, tuple(found)) for number, found in groupby(records, lambda one: one.number))
    )


def compared_at(found: Sequence[Configuration]) -> int:
    """Return the largest number of samples that nearly all configurations that are over have come to.

    A few that were cut off at once, by the budget for example, do not keep all others from being compared.
    """
    reached = sorted(one.samples for one in found if one.outcome in ("whole", "early") and one.samples)
    return reached[int((1 - COMPARED) * len(reached) + 1e-9)] if reached else 0


def comparable(found: Sequence[Configuration], samples: int) -> tuple[Configuration, ...]:
    """Return the configurations that are over and have a value after some samples."""
    return tuple(
        one for one in found if one.outcome in ("whole", "early") and one.samples >= samples and one.at(samples)
    )


def _value(points: Sequence[Point], samples: int) -> tuple[float, ...] | None:
    if not points or points[-1].samples < samples:
        return None
    before = [point for point in points if point.samples <= samples]
    return before[-1].values if before else None


# Which configurations are best: among those that were trained to their end with every replica, and no others.


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
