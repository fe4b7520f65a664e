"""Configurations and what they came to: the replicas of each put together, at equal numbers of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import Literal

from orchestrator.config.sweep import Assignment
from orchestrator.sweep.folder import Point, TrialRecord

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
