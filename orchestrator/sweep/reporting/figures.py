"""What the figures of a sweep have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

from orchestrator.config.search_space import Choice
from orchestrator.report.html import LIGHT
from orchestrator.sweep.reporting.scales import Scale
from orchestrator.sweep.reporting.words import LONGEST, tick_text

BEST: dict[str, Any] = {"color": LIGHT["vermillion"], "zorder": 5}
WHOLE: dict[str, Any] = {"color": LIGHT["blue"], "zorder": 3}
EARLY: dict[str, Any] = {"color": LIGHT["muted"], "zorder": 2}

_LETTERS = 56
"""That have room along an axis."""

_FAR = 3.0
"""Interquartile ranges beyond the quartile from which on a value does not widen an axis."""


def set_scale(axis: Any, scale: Scale, limits: Any) -> None:
    """Have an axis of a chart show a key's values.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`.
        scale: of the key.
        limits: `axes.set_xlim` or `axes.set_ylim`.
    """
    choices = len(scale.domain.values) if isinstance(scale.domain, Choice) else 1
    ticks = scale.ticks(min(LONGEST, max(2, _LETTERS // choices - 1)))
    axis.set_major_locator(FixedLocator([place for place, _ in ticks]))
    axis.set_major_formatter(FixedFormatter([text for _, text in ticks]))
    limits(-0.03, 1.03)


def usual(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest value but for those far from all others, as of a training that diverged.

    Args:
        values: finite, at least one.
    """
    found = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(found, [0.25, 0.75])
    reach = _FAR * (high - low)
    inside = found[(found >= low - reach) & (found <= high + reach)] if reach > 0 else found
    return float(inside.min()), float(inside.max())


def show_values(axes: Axes, values: Sequence[float]) -> int:
    """Fit the vertical axis to the usual values of an objective; return how many lie beyond it.

    Args:
        axes: the chart.
        values: finite, at least one.
    """
    low, high = usual(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    return sum(not low <= value <= high for value in values)


def beyond(count: int, what: str) -> str:
    """Say how many values are beyond the axis, nothing when there are none."""
    return f"{count} {what} beyond the axis, far from all others." if count else ""


def aside(number: int, width: float) -> float:
    """Return a shift that keeps configurations with equal values apart, the same for the same number."""
    return width * ((number * 0.61803398875) % 1 - 0.5)
