"""What the figures of a sweep have in common."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, MaxNLocator

from orchestrator.config.search_space import Choice, Domain, Range
from orchestrator.report.formats import short_count
from orchestrator.report.html import GRADES, LIGHT
from orchestrator.sweep.results import Mode, Score

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


# How keys and values are written in tables and figures.


LONGEST = 18
"""Letters of a value in a figure; more would not fit."""

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def value_text(value: Any) -> str:
    """Write a value of a searched key in full."""
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {value_text(inner)}" for key, inner in value.items())
    return json.dumps(value, default=str)


def number_text(number: float) -> str:
    """Write a number of any size with three significant digits."""
    return short_count(float(f"{number:.3g}")) if 1e3 <= abs(number) < 1e12 else f"{number:.3g}"


def score_text(score: Score) -> str:
    """Write a score as its mean, with as many digits as tell configurations apart, and its spread."""
    mean = f"{score.mean:.4g}"
    return mean if score.spread is None else f"{mean} {PLUS_MINUS} {score.spread:.2g}"


def tick_text(number: float) -> str:
    """Write a number at an axis whose neighbours may differ in late digits only."""
    return short_count(float(f"{number:.6g}"))


def label(text: str, letters: int = LONGEST) -> str:
    """Return a text that fits into a figure, where a dollar sign means nothing.

    Args:
        text: in full.
        letters: that there is room for.
    """
    line = " ".join(text.split())
    short = line if len(line) <= letters else f"{line[: letters - 1]}…"
    return plain(short)


def plain(text: str) -> str:
    """Return a text in which a dollar sign does not begin a formula."""
    return " ".join(text.split()).replace("$", r"\$")


# Where a key's values lie between 0 and 1 along an axis, and what the axis says.


MOST_TICKS = 7


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis over a domain: a range takes all of it, choices stand in the middle of equal parts."""

    domain: Domain

    @property
    def is_numeric(self) -> bool:
        """Whether values between two others mean something."""
        return isinstance(self.domain, Range)

    def place(self, value: Any) -> float:
        """Return where a value of the domain lies, in [0, 1]."""
        if isinstance(self.domain, Choice):
            return (self.domain.values.index(value) + 0.5) / len(self.domain.values)
        low, high, at = (self._measure(one) for one in (self.domain.low, self.domain.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self, letters: int = LONGEST) -> list[tuple[float, str]]:
        """Return places and what is written there.

        Args:
            letters: that there is room for at a choice.
        """
        if isinstance(self.domain, Choice):
            return [(self.place(value), label(value_text(value), letters)) for value in self.domain.values]
        return [(self.place(one), number_text(one)) for one in _round_numbers(self.domain)]

    def _measure(self, value: float) -> float:
        return math.log(value) if isinstance(self.domain, Range) and self.domain.logarithmic else float(value)


def _round_numbers(domain: Range) -> list[float]:
    decades = math.log10(domain.high / domain.low) if domain.logarithmic else 0.0
    if domain.logarithmic and decades >= 1:
        locator: Any = LogLocator(subs=(1.0,) if decades >= 2 else (1.0, 2.0, 5.0), numticks=MOST_TICKS)
    else:
        locator = MaxNLocator(5, steps=(1, 2, 5, 10), integer=domain.whole)
    within = [float(one) for one in locator.tick_values(domain.low, domain.high)]
    found = [one for one in within if domain.low * (1 - 1e-9) <= one <= domain.high * (1 + 1e-9)]
    return found if len(found) > 1 else [float(domain.low), float(domain.high)]


# From values of an objective to a few colours, each for as many configurations: one that diverged spoils no figure.


@dataclass(frozen=True, slots=True)
class ColourRanks:
    """Colours for an objective.

    Args:
        edges: values between which a colour is used, ascending: one more than there are colours.
        colours: names in the palette, by value.
    """

    edges: tuple[float, ...]
    colours: tuple[str, ...]

    def colour(self, value: float) -> str:
        """Return the name of a value's colour."""
        return self.colours[min(max(bisect_right(self.edges, value) - 1, 0), len(self.colours) - 1)]


def colour_ranks(values: Sequence[float], mode: Mode) -> ColourRanks:
    """Return colours from the palest for bad to the strongest for good values.

    Args:
        values: finite, at least one.
        mode: which are good.
    """
    edges = np.unique(np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0, 1, len(GRADES) + 1)))
    if len(edges) < 2:
        return ColourRanks((float(edges[0]), float(edges[0])), (GRADES[-1],))
    wanted = np.linspace(0, len(GRADES) - 1, len(edges) - 1).round().astype(int)
    colours = [GRADES[one] for one in wanted]
    return ColourRanks(tuple(map(float, edges)), tuple(colours if mode == "max" else colours[::-1]))
