"""Charts of how values are distributed, each returned as an inline SVG element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from orchestrator.report.axes import canvas
from orchestrator.report.formats import short_count
from orchestrator.report.palette import LIGHT
from orchestrator.report.svg import inline

Numbers = NDArray[np.int64]
MOST_BARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How values are distributed.

    Args:
        title: what they are.
        along: what the horizontal axis shows, with its unit.
        unit: what is counted.
        edges: of the bars, [n + 1].
        counts: heights of the bars, [n].
        colour: name in the palette.
        ticks: values that the horizontal axis names; by default some round ones.
        tick_text: how a value is written.
        log: whether the horizontal axis is logarithmic.
    """

    title: str
    along: str
    unit: str
    edges: Sequence[float]
    counts: Sequence[int]
    colour: str = "blue"
    ticks: Sequence[float] = ()
    tick_text: Callable[[float], str] = short_count
    log: bool = False


def histogram_chart(histogram: Histogram, prefix: str) -> str:
    """Draw a histogram.

    Args:
        histogram: at least one bar.
        prefix: of the ids in the SVG.
    """
    drawing, axes = canvas(histogram.unit, along=histogram.along)
    edges = np.asarray(histogram.edges, dtype=np.float64)
    if histogram.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.bar(
        edges[:-1],
        histogram.counts,
        width=np.diff(edges),
        align="edge",
        color=LIGHT[histogram.colour],
        edgecolor=LIGHT["paper"],
        linewidth=0.6,
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    if len(histogram.ticks):
        axes.xaxis.set_major_locator(FixedLocator(histogram.ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: histogram.tick_text(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    return inline(drawing, prefix, _summary(histogram))


def scatter_chart(x: Numbers, y: Numbers, along: str, unit: str, prefix: str) -> str:
    """Draw points whose two coordinates have one unit, so that the diagonal means equality.

    Args:
        x: coordinates along the horizontal axis, int64[n], n > 0.
        y: coordinates along the vertical axis, int64[n].
        along: what the horizontal axis shows, with its unit.
        unit: what the vertical axis shows, with its unit.
        prefix: of the ids in the SVG.
    """
    drawing, axes = canvas(unit, along=along)
    most = 1.06 * max(x.max(), y.max())
    axes.plot([0, most], [0, most], color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(x, y, "o", markersize=4, markeredgewidth=0, alpha=0.35, color=LIGHT["blue"])
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)
    return inline(drawing, prefix, f"{unit} against {along} of {len(x):,} images; the line is where they are equal")


def of_counts(counts: Numbers, shown: int) -> tuple[NDArray[np.float64], Numbers]:
    """Return edges and heights of bars over 0, 1, 2 ... up to and with `shown`; if there are many, some share a bar.

    Args:
        counts: how often there is 0, 1, 2 ..., int64[n].
        shown: the last value that is drawn.
    """
    width = max(1, -(-(shown + 1) // MOST_BARS))
    bars = -(-(shown + 1) // width)
    padded = np.zeros(bars * width, np.int64)
    drawn = counts[: min(len(counts), bars * width)]
    padded[: len(drawn)] = drawn
    heights = padded.reshape(bars, width).sum(axis=1, dtype=np.int64)
    return np.arange(bars + 1, dtype=np.float64) * width - 0.5, heights


def _summary(histogram: Histogram) -> str:
    total = int(np.sum(histogram.counts))
    return f"{histogram.title}: {total:,} values between {histogram.edges[0]:g} and {histogram.edges[-1]:g}"
