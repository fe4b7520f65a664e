"""Goodput: the share of a run's wall time that went into steps that count."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

AROUND_THE_STEP = ("startup", "evaluation", "checkpoint")
"""Parts of a record's seconds that are not the step itself."""


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """Where a run's wall time went, in seconds.

    Args:
        productive_s: in steps that count.
        lost_s: in steps that were done again later.
        downtime_s: in everything else: starting, saving, measuring, waiting to be resumed.
    """

    productive_s: float
    lost_s: float
    downtime_s: float

    @property
    def goodput(self) -> float:
        """The share spent in steps that count, 0 before there is any."""
        total_s = self.productive_s + self.lost_s + self.downtime_s
        return self.productive_s / total_s if total_s > 0 else 0.0


class StepTimes:
    """The seconds of every step; of a step that is done again, the last ones count and the others are lost."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._busy_s = array("d")
        self._productive_s = 0.0
        self._lost_s = 0.0

    def enter(self, step: int, busy_s: float) -> None:
        """Enter a step; those that were entered before and are not earlier than it are lost."""
        if self._first is None or step < self._first:
            self._first, at = step, 0
        else:
            at = step - self._first
        lost_s = sum(self._busy_s[at:])
        del self._busy_s[at:]
        self._busy_s.extend(0.0 for _ in range(at - len(self._busy_s)))
        self._busy_s.append(busy_s)
        self._productive_s += busy_s - lost_s
        self._lost_s += lost_s

    def spent(self, wall_s: float) -> TimeSpent:
        """Return where the time since the first start went.

        Args:
            wall_s: seconds since then.
        """
        downtime_s = max(0.0, wall_s - self._productive_s - self._lost_s)
        return TimeSpent(self._productive_s, self._lost_s, downtime_s)


def step_seconds(seconds: Mapping[str, float]) -> float:
    """Return the time that a step itself took, of the parts of a record."""
    return sum(value for part, value in seconds.items() if part not in AROUND_THE_STEP)


# Steps at which a metric jumped, against what it was just before. Pure.
#
# A curve that falls lies below the median of the values before it all the time, so that distance is judged by what it
# used to be. With medians and MADs (the median of the absolute distances from the median) over the last `WINDOW` finite
# values before a step:
#
#     distance = value - median of the values before
#     score    = (distance - median of the distances before) / max(1.4826 * MAD of the distances before, floor)
#     floor    = 0.001 * |median of the values before|
#
# 1.4826 makes the MAD the standard deviation of normal noise (Rousseeuw and Croux 1993). Neither it nor the median is
# moved by a few spikes in the window. The floor keeps the smallest twitch of a curve that stood still from counting as
# a jump. A value that is not finite scores infinity. Steps in a row that score `THRESHOLD` or more are one spike, which
# is named by its first step: its samples, or the update of the step before, are where to look.


WINDOW = 64
LEAST = 8
"""Values, and then distances, that must come before a step for it to be judged."""

THRESHOLD = 6.0
FLOOR = 0.001
TINY = 1e-12
TO_DEVIATION = 1.4826
ROWS_AT_ONCE = 65_536

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spike:
    """A jump of a metric.

    Args:
        step: the first step of it.
        last_step: the last step of it.
        value: the metric's largest value in it; the first one that is not finite, if one is not.
        expected: what the values before its first step led to expect; not a number when there were too few.
        score: the largest of its steps' scores.
    """

    step: int
    last_step: int
    value: float
    expected: float
    score: float


def find_spikes(steps: Sequence[int], values: Sequence[float]) -> list[Spike]:
    """Return the jumps of a metric, the largest first; see the module for the formula.

    Args:
        steps: in ascending order; of a step that comes twice the later value counts.
        values: one for each.
    """
    curve = dict(zip(steps, values, strict=True))
    names, heights = list(curve), np.array(list(curve.values()), dtype=np.float64)
    scores, expected = _scores(heights)
    spikes = [
        Spike(
            step=names[run.start],
            last_step=names[run.stop - 1],
            value=_worst(heights[run.start : run.stop]),
            expected=float(expected[run.start]),
            score=float(scores[run.start : run.stop].max()),
        )
        for run in _runs(scores >= THRESHOLD)
    ]
    return sorted(spikes, key=lambda spike: (-spike.score, spike.step))


def _scores(values: Numbers) -> tuple[Numbers, Numbers]:
    """Return each value's score, minus infinity where too few came before it to tell, and what was expected."""
    finite = np.isfinite(values)
    known = values[finite]
    medians, _ = _backgrounds(known)
    distances = (known - medians[:-1])[LEAST:]
    usual, deviations = _backgrounds(distances)
    earlier = np.cumsum(finite) - finite
    before = np.maximum(earlier - LEAST, 0)
    expected = np.where(before >= LEAST, medians[earlier] + usual[before], math.nan)
    floor = np.maximum(FLOOR * np.abs(medians[earlier]), TINY)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = (values - expected) / np.maximum(TO_DEVIATION * deviations[before], floor)
    return np.where(finite, np.nan_to_num(scores, nan=-math.inf, posinf=math.inf), math.inf), expected


def _backgrounds(finite: Numbers) -> tuple[Numbers, Numbers]:
    """Return median and MAD of the last values among the first n, for every n from 0, [len(finite) + 1] each."""
    medians, deviations = np.zeros((2, len(finite) + 1))
    for count in range(1, min(WINDOW, len(finite) + 1)):
        medians[count : count + 1], deviations[count : count + 1] = _middle(finite[None, :count])
    if len(finite) >= WINDOW:
        windows = sliding_window_view(finite, WINDOW)
        for start in range(0, len(windows), ROWS_AT_ONCE):
            rows = slice(WINDOW + start, WINDOW + min(start + ROWS_AT_ONCE, len(windows)))
            medians[rows], deviations[rows] = _middle(windows[start : start + ROWS_AT_ONCE])
    return medians, deviations


def _middle(windows: Numbers) -> tuple[Numbers, Numbers]:
    medians = np.median(windows, axis=1)
    return medians, np.median(np.abs(windows - medians[:, None]), axis=1)


def _runs(high: NDArray[np.bool_]) -> list[range]:
    """Return the stretches of a row of truths."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]])))
    return [range(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _worst(values: Numbers) -> float:
    broken = values[~np.isfinite(values)]
    return float(broken[0] if len(broken) else values.max())
