"""Analysis of a run's log: goodput, and spikes of a metric. Pure.

Goodput is the share of a run's wall time that was spent in steps that count.

A spike is a step at which a metric jumped relative to the values just before it. A falling curve is always below the
median of its past, so a value's distance from that median is compared with the distances before. With medians and MADs
(median absolute deviations) over the last `WINDOW` finite values before a step:

    distance = value - median of the values before
    score    = (distance - median of the distances before) / max(1.4826 * MAD of the distances before, floor)
    floor    = 0.001 * |median of the values before|

1.4826 makes the MAD the standard deviation of normal noise (Rousseeuw and Croux 1993). Neither it nor the median is
moved by a few spikes in the window. The floor keeps small changes of a constant curve from counting. A non-finite value
scores infinity. Consecutive steps that score `THRESHOLD` or more are one spike, named by its first step: its samples,
or the update of the step before, are where to look.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

OUTSIDE_THE_STEP = ("startup", "evaluation", "checkpoint")
"""Parts of a record's seconds that do not belong to the step itself."""


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """Where a run's wall time went, in seconds.

    Args:
        productive_s: in steps that count.
        lost_s: in steps that were repeated later.
        downtime_s: in everything else: startup, checkpoints, evaluation, waiting to be resumed.
    """

    productive_s: float
    lost_s: float
    downtime_s: float

    @property
    def goodput(self) -> float:
        """The share of the total that was spent in steps that count; 0 before the first step."""
        total_s = self.productive_s + self.lost_s + self.downtime_s
        return self.productive_s / total_s if total_s > 0 else 0.0


class StepTimes:
    """Seconds of every step; of a repeated step the last ones count and the earlier ones are lost."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._busy_s = array("d")
        self._productive_s = 0.0
        self._lost_s = 0.0

    def enter(self, step: int, busy_s: float) -> None:
        """Add a step; steps from this one on that were added before are lost."""
        if self._first is None or step < self._first:
            self._first, index = step, 0
        else:
            index = step - self._first
        lost_s = sum(self._busy_s[index:])
        del self._busy_s[index:]
        self._busy_s.extend(0.0 for _ in range(index - len(self._busy_s)))
        self._busy_s.append(busy_s)
        self._productive_s += busy_s - lost_s
        self._lost_s += lost_s

    def spent(self, wall_s: float) -> TimeSpent:
        """Return how the time since the first start was spent.

        Args:
            wall_s: seconds since the first start.
        """
        downtime_s = max(0.0, wall_s - self._productive_s - self._lost_s)
        return TimeSpent(self._productive_s, self._lost_s, downtime_s)


def step_seconds(seconds: Mapping[str, float]) -> float:
    """Return the seconds of the step itself, from the parts of a record."""
    return sum(value for part, value in seconds.items() if part not in OUTSIDE_THE_STEP)


WINDOW = 64
MIN_HISTORY = 8
"""Number of values, and then of distances, before a step that a score needs."""

THRESHOLD = 6.0
FLOOR = 0.001
TINY = 1e-12
MAD_TO_STD = 1.4826
ROWS_AT_ONCE = 65_536

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spike:
    """A spike of a metric.

    Args:
        step: its first step.
        last_step: its last step.
        value: the metric's largest value in it, or the first non-finite one.
        expected: expected value at its first step; NaN when there were too few values before.
        score: the largest score of its steps.
    """

    step: int
    last_step: int
    value: float
    expected: float
    score: float


def find_spikes(steps: Sequence[int], values: Sequence[float]) -> list[Spike]:
    """Return the spikes of a metric, the largest first; see the module for the formula.

    Args:
        steps: in ascending order; of a repeated step the later value counts.
        values: one for each step.
    """
    curve = dict(zip(steps, values, strict=True))
    curve_steps, curve_values = list(curve), np.array(list(curve.values()), dtype=np.float64)
    scores, expected = _scores(curve_values)
    spikes = [
        Spike(
            step=curve_steps[run.start],
            last_step=curve_steps[run.stop - 1],
            value=_worst(curve_values[run.start : run.stop]),
            expected=float(expected[run.start]),
            score=float(scores[run.start : run.stop].max()),
        )
        for run in _runs(scores >= THRESHOLD)
    ]
    return sorted(spikes, key=lambda spike: (-spike.score, spike.step))


def _scores(values: Numbers) -> tuple[Numbers, Numbers]:
    """Return each value's score, minus infinity where too few values precede it, and the expected value."""
    finite = np.isfinite(values)
    known = values[finite]
    medians, _ = _rolling_median_and_mad(known)
    distances = (known - medians[:-1])[MIN_HISTORY:]
    expected_distance, deviations = _rolling_median_and_mad(distances)
    earlier = np.cumsum(finite) - finite
    before = np.maximum(earlier - MIN_HISTORY, 0)
    expected = np.where(before >= MIN_HISTORY, medians[earlier] + expected_distance[before], math.nan)
    floor = np.maximum(FLOOR * np.abs(medians[earlier]), TINY)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = (values - expected) / np.maximum(MAD_TO_STD * deviations[before], floor)
    return np.where(finite, np.nan_to_num(scores, nan=-math.inf, posinf=math.inf), math.inf), expected


def _rolling_median_and_mad(finite: Numbers) -> tuple[Numbers, Numbers]:
    """Return median and MAD of the last `WINDOW` of the first n values, for every n from 0: [len(finite) + 1] each."""
    medians, deviations = np.zeros((2, len(finite) + 1))
    for count in range(1, min(WINDOW, len(finite) + 1)):
        medians[count : count + 1], deviations[count : count + 1] = _median_and_mad(finite[None, :count])
    if len(finite) >= WINDOW:
        windows = sliding_window_view(finite, WINDOW)
        for start in range(0, len(windows), ROWS_AT_ONCE):
            rows = slice(WINDOW + start, WINDOW + min(start + ROWS_AT_ONCE, len(windows)))
            medians[rows], deviations[rows] = _median_and_mad(windows[start : start + ROWS_AT_ONCE])
    return medians, deviations


def _median_and_mad(windows: Numbers) -> tuple[Numbers, Numbers]:
    medians = np.median(windows, axis=1)
    return medians, np.median(np.abs(windows - medians[:, None]), axis=1)


def _runs(high: NDArray[np.bool_]) -> list[range]:
    """Return the ranges of consecutive true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]])))
    return [range(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _worst(values: Numbers) -> float:
    broken = values[~np.isfinite(values)]
    return float(broken[0] if len(broken) else values.max())
