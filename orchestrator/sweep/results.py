"""The results of a sweep: what its trials cost, the scores of its configurations, and which of them are best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
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

    As soon as one trial is FINISHED, only finished trials count, as the others have seen fewer samples. Trials that
    failed, and non-finite values, never count.
    """
    reported = [record for record in records if record.status != "FAILED" and record.points and _finite(record)]
    finished = [record for record in reported if record.status == "FINISHED"]
    values: dict[int, list[tuple[float, ...]]] = {}
    for record in finished or reported:
        values.setdefault(record.number, []).append(record.points[-1].values)
    return {number: tuple(map(fmean, zip(*replicas, strict=True))) for number, replicas in values.items()}


def best(outcomes: Mapping[int, Sequence[float]], modes: Sequence[str]) -> frozenset[int]:
    """Return the numbers of the Pareto-optimal configurations: with one objective the best, else the Pareto front.

    Args:
        outcomes: values of the objectives, by number.
        modes: min or max, for each objective.
    """
    signed = {number: signs(values, modes) for number, values in outcomes.items()}
    return frozenset(
        number for number, own in signed.items() if not any(_dominates(other, own) for other in signed.values())
    )


def signs(values: Sequence[float], modes: Sequence[str]) -> tuple[float, ...]:
    """Return values of objectives with the sign under which larger is better."""
    return tuple(SIGNS[mode] * value for mode, value in zip(modes, values, strict=True))


def _dominates(own: Sequence[float], other: Sequence[float]) -> bool:
    return own != other and all(a >= b for a, b in zip(own, other, strict=True))


def _finite(record: TrialRecord) -> bool:
    return all(map(math.isfinite, record.points[-1].values))


READER_THREADS = 8


class TrialSpending:
    """Reads what trials cost, repeatedly; a trial that is over is read once.

    Args:
        folder: the sweep's folder.
        strict: whether a damaged cost file is an error; otherwise its trial is omitted.
    """

    def __init__(self, folder: SweepFolder, strict: bool = False) -> None:
        self._folder = folder
        self._strict = strict
        self._ended: dict[str, RunCost] = {}

    def read(self, trials: Sequence[TrialRecord]) -> dict[str, RunCost]:
        """Return what trials cost, by name; without those whose cost is unknown.

        Raises:
            CostRecordError: a trial's cost file is damaged, and `strict` is set.
            StorageError: storage cannot be reached.
        """
        runs = self._folder.runs()
        unread = [trial for trial in trials if trial.name not in self._ended and trial.name in runs]
        with ThreadPoolExecutor(READER_THREADS, thread_name_prefix="costs") as readers:
            costs = list(readers.map(lambda trial: self._spent(runs[trial.name]), unread))
        known = {trial.name: spent for trial, spent in zip(unread, costs, strict=True) if spent is not None}
        self._ended |= {trial.name: known[trial.name] for trial in unread if trial.is_over and trial.name in known}
        return self._ended | known

    def _spent(self, runs: Sequence[RunFolder]) -> RunCost | None:
        try:
            costs = [Costs(read_starts(run.costs)) for run in runs]
        except FuserayError:
            if self._strict:
                raise
            return None
        return total_cost(cost.spent() for cost in costs) if any(costs) else None


ConfigurationOutcome = Literal["whole", "early", "incomplete", "open", "failed"]
"""whole: every replica was trained to the end; early: stopped before; incomplete: replicas failed or are missing; open:
not over; failed: every replica failed."""

COMPARED_SHARE = 0.9
"""Share of the configurations that must have reached the number of samples at which they are compared."""


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
        number: of the configuration, from 0.
        assignment: values of the searched keys.
        replicas: its trials, by replica.
        planned: replicas of a complete configuration.
        going_on: whether the sweep may still start the missing ones.
    """

    number: int
    assignment: Assignment
    replicas: tuple[TrialRecord, ...]
    planned: int
    going_on: bool = False

    @property
    def outcome(self) -> ConfigurationOutcome:
        """How it ended; open while it has not."""
        statuses = [replica.status for replica in self.replicas]
        if any(not replica.is_over for replica in self.replicas):
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
        """The replicas that have reported and did not fail."""
        return tuple(replica for replica in self.replicas if replica.status != "FAILED" and replica.points)

    @property
    def samples(self) -> int:
        """Samples that each of the counted replicas has seen; 0 when there is none."""
        return min((replica.points[-1].samples for replica in self.counted), default=0)

    @property
    def scores(self) -> tuple[Score, ...]:
        """The objectives where the counted replicas can be compared; empty when there is none or one is not finite."""
        return self.at(self.samples)

    @property
    def means(self) -> tuple[float, ...]:
        """The means of these objectives."""
        return tuple(score.mean for score in self.scores)

    def at(self, samples: int) -> tuple[Score, ...]:
        """Return the objectives after some samples; empty if a counted replica has fewer samples or is non-finite."""
        reported = [_values_at(replica.points, samples) for replica in self.counted]
        finite = [values for values in reported if values is not None and all(map(math.isfinite, values))]
        if not finite or len(finite) < len(reported):
            return ()
        return tuple(Score(column) for column in zip(*finite, strict=True))

    @property
    def reasons(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of every replica that failed."""
        return tuple((replica.name, replica.reason) for replica in self.replicas if replica.status == "FAILED")


def group_by_configuration(records: Sequence[TrialRecord], planned: int, going_on: bool) -> tuple[Configuration, ...]:
    """Group the trials of a sweep by configuration.

    Args:
        records: sorted by number and replica.
        planned: replicas per configuration.
        going_on: whether the sweep is running.
    """
    return tuple(
        Configuration(number, replicas[0].assignment, replicas, planned, going_on)
        for number, replicas in ((number, tuple(group)) for number, group in groupby(records, lambda each: each.number))
    )


def compared_at(configurations: Sequence[Configuration]) -> int:
    """Return the largest number of samples that nearly all configurations that are over have seen.

    A few that were stopped almost at once, by the budget for example, do not prevent comparing all others.
    """
    reached = sorted(each.samples for each in configurations if each.outcome in ("whole", "early") and each.samples)
    return reached[int((1 - COMPARED_SHARE) * len(reached) + 1e-9)] if reached else 0


def comparable(configurations: Sequence[Configuration], samples: int) -> tuple[Configuration, ...]:
    """Return the configurations that are over and have finite objectives after some samples."""
    return tuple(
        each
        for each in configurations
        if each.outcome in ("whole", "early") and each.samples >= samples and each.at(samples)
    )


def _values_at(points: Sequence[Point], samples: int) -> tuple[float, ...] | None:
    if not points or points[-1].samples < samples:
        return None
    before = [point for point in points if point.samples <= samples]
    return before[-1].values if before else None


Mode = Literal["min", "max"]

NOT_CONSIDERED = {
    "early": "stopped early",
    "incomplete": "not every replica ended well",
    "open": "not over",
    "failed": "failed",
    "whole": "its objective is not finite",
}
"""Why a configuration was not considered for the best, by its outcome."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best configurations.

    Args:
        first: the best by the first objective; None when no configuration was considered.
        front: the Pareto front, by number; with one objective the best alone.
        left_out: configurations that were not considered.
    """

    first: Configuration | None
    front: tuple[Configuration, ...]
    left_out: tuple[Configuration, ...]


def select_best(configurations: Sequence[Configuration], modes: Sequence[Mode]) -> Best:
    """Return the best configurations by the means over their replicas; of equals, the one with the lower number.

    Args:
        configurations: by number.
        modes: of the objectives.
    """
    candidates = [each for each in configurations if each.outcome == "whole" and each.scores]
    left_out = tuple(each for each in configurations if each not in candidates)
    if not candidates:
        return Best(None, (), left_out)
    means = {candidate.number: candidate.means for candidate in candidates}
    first = max(candidates, key=lambda candidate: signs(candidate.means, modes))
    if len(modes) == 1:
        return Best(first, (first,), left_out)
    front = best(means, modes)
    return Best(first, tuple(candidate for candidate in candidates if candidate.number in front), left_out)


def best_replica(configuration: Configuration, mode: Mode) -> TrialRecord:
    """Return the replica of a whole configuration that is best in the first objective."""
    return max(configuration.replicas, key=lambda record: SIGNS[mode] * record.points[-1].values[0])
