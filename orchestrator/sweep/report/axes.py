"""What the charts of a sweep's report share: axes of searched keys, labels, and colours by rank."""

from __future__ import annotations

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
from orchestrator.sweep.validate import number_text, value_text

BEST: dict[str, Any] = {"color": LIGHT["vermillion"], "zorder": 5}
WHOLE: dict[str, Any] = {"color": LIGHT["blue"], "zorder": 3}
EARLY: dict[str, Any] = {"color": LIGHT["muted"], "zorder": 2}

MAX_LABEL_LENGTH = 56
"""Maximum length of an axis's labels together, in characters."""

OUTLIER_RANGES = 3.0
"""Interquartile ranges from the quartiles beyond which a value is an outlier, which does not widen an axis."""


def set_scale(axis: Any, scale: Scale, limits: Any) -> None:
    """Set the ticks and limits of a chart's axis to a key's domain.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`.
        scale: of the key.
        limits: `axes.set_xlim` or `axes.set_ylim`.
    """
    choices = len(scale.domain.values) if isinstance(scale.domain, Choice) else 1
    ticks = scale.ticks(min(MAX_VALUE_LENGTH, max(2, MAX_LABEL_LENGTH // choices - 1)))
    axis.set_major_locator(FixedLocator([position for position, _ in ticks]))
    axis.set_major_formatter(FixedFormatter([text for _, text in ticks]))
    limits(-0.03, 1.03)


def usual(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest value without outliers, such as those of diverged runs.

    Args:
        values: finite, at least one.
    """
    array = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(array, [0.25, 0.75])
    reach = OUTLIER_RANGES * (high - low)
    inside = array[(array >= low - reach) & (array <= high + reach)] if reach > 0 else array
    return float(inside.min()), float(inside.max())


def show_values(axes: Axes, values: Sequence[float]) -> int:
    """Fit the vertical axis to an objective's values without outliers; return the number of outliers.

    Args:
        axes: the chart.
        values: finite, at least one.
    """
    low, high = usual(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    return sum(not low <= value <= high for value in values)


def outlier_note(count: int, subject: str) -> str:
    """Return how many values are beyond the axis; empty when none is.

    Args:
        count: of outliers.
        subject: with its verb, such as `values are`.
    """
    return f"{count} {subject} beyond the axis, far from all others." if count else ""


def jitter(number: int, width: float) -> float:
    """Return a horizontal shift that separates configurations with equal values, the same for the same number."""
    return width * ((number * 0.61803398875) % 1 - 0.5)


MAX_VALUE_LENGTH = 18
"""Maximum length of a value's label, in characters."""

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def cell_text(value: Any) -> str:
    """Return a value for a table cell or a tick: as `value_text`, but sections as `key: value, key: value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {cell_text(inner)}" for key, inner in value.items())
    return value_text(value)


def score_text(score: Score) -> str:
    """Return a score as its mean with four significant digits, and its standard deviation."""
    mean = f"{score.mean:.4g}"
    return mean if score.spread is None else f"{mean} {PLUS_MINUS} {score.spread:.2g}"


def tick_text(number: float) -> str:
    """Return a tick's label with six significant digits, as neighbouring ticks may differ in late digits only."""
    return short_count(float(f"{number:.6g}"))


def label(text: str, letters: int = MAX_VALUE_LENGTH) -> str:
    """Return a text shortened to fit a chart, with dollar signs escaped.

    Args:
        text: in full.
        letters: maximum length, in characters.
    """
    line = " ".join(text.split())
    short = line if len(line) <= letters else f"{line[: letters - 1]}…"
    return plain(short)


def plain(text: str) -> str:
    """Return a text with dollar signs escaped, which would begin a formula in matplotlib."""
    return " ".join(text.split()).replace("$", r"\$")


MOST_TICKS = 7


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps a domain to [0, 1] along an axis: a range spans all of it, choices are the centres of equal parts."""

    domain: Domain

    @property
    def is_numeric(self) -> bool:
        """Whether the domain is a range of numbers."""
        return isinstance(self.domain, Range)

    def position(self, value: Any) -> float:
        """Return the position of a value of the domain, in [0, 1]."""
        if isinstance(self.domain, Choice):
            return (self.domain.values.index(value) + 0.5) / len(self.domain.values)
        low, high, at = (self._measure(each) for each in (self.domain.low, self.domain.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self, letters: int = MAX_VALUE_LENGTH) -> list[tuple[float, str]]:
        """Return the positions and labels of ticks.

        Args:
            letters: maximum length of a choice's label, in characters.
        """
        if isinstance(self.domain, Choice):
            return [(self.position(value), label(cell_text(value), letters)) for value in self.domain.values]
        return [(self.position(number), number_text(number)) for number in _round_numbers(self.domain)]

    def _measure(self, value: float) -> float:
        return math.log(value) if isinstance(self.domain, Range) and self.domain.logarithmic else float(value)


def _round_numbers(domain: Range) -> list[float]:
    decades = math.log10(domain.high / domain.low) if domain.logarithmic else 0.0
    if domain.logarithmic and decades >= 1:
        locator: Any = LogLocator(subs=(1.0,) if decades >= 2 else (1.0, 2.0, 5.0), numticks=MOST_TICKS)
    else:
        locator = MaxNLocator(5, steps=(1, 2, 5, 10), integer=domain.whole)
    located = [float(tick) for tick in locator.tick_values(domain.low, domain.high)]
    ticks = [tick for tick in located if domain.low * (1 - 1e-9) <= tick <= domain.high * (1 + 1e-9)]
    return ticks if len(ticks) > 1 else [float(domain.low), float(domain.high)]


@dataclass(frozen=True, slots=True)
class ColourRanks:
    """Maps the values of an objective to colours by quantiles, so that a diverged one does not flatten the rest.

    Args:
        edges: ascending bounds of the colours: one more than there are colours.
        colours: names in the palette, by ascending value.
    """

    edges: tuple[float, ...]
    colours: tuple[str, ...]

    def colour(self, value: float) -> str:
        """Return the palette's name of a value's colour."""
        return self.colours[min(max(bisect_right(self.edges, value) - 1, 0), len(self.colours) - 1)]


def colour_ranks(values: Sequence[float], mode: Mode) -> ColourRanks:
    """Return colours from the palest for the worst to the strongest for the best values.

    Args:
        values: finite, at least one.
        mode: whether small or large values are good.
    """
    edges = np.unique(np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0, 1, len(GRADES) + 1)))
    if len(edges) < 2:
        return ColourRanks((float(edges[0]), float(edges[0])), (GRADES[-1],))
    indices = np.linspace(0, len(GRADES) - 1, len(edges) - 1).round().astype(int)
    colours = [GRADES[index] for index in indices]
    return ColourRanks(tuple(map(float, edges)), tuple(colours if mode == "max" else colours[::-1]))
