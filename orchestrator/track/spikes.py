"""Steps at which a metric jumped, against what it was just before. Pure.

A curve that falls lies below the median of the values before it all the time, so that distance is judged by what it
used to be. With medians and MADs (the median of the absolute distances from the median) over the last `WINDOW` finite
values before a step:

    distance = value - median of the values before
    score    = (distance - median of the distances before) / max(1.4826 * MAD of the distances before, floor)
    floor    = 0.001 * |median of the values before|

1.4826 makes the MAD the standard deviation of normal noise (Rousseeuw and Croux 1993). Neither it nor the median is
moved by a few spikes in the window. The floor keeps the smallest twitch of a curve that stood still from counting as a
jump. A value that is not finite scores infinity. Steps in a row that score `THRESHOLD` or more are one spike, which is
named by its first step: its samples, or the update of the step before, are where to look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

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
