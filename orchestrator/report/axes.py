"""The common look of the page's charts, so that all of them line up."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from orchestrator.report.formats import short_count
from orchestrator.report.palette import LIGHT

WIDTH, HEIGHT = 440, 236
"""Size of a chart in its own units; text is 12 units high."""

_LEFT, _TOP, _BOTTOM = 46, 30, 42
_NICE = (1, 2, 5, 10)
_TEXT: dict[str, Any] = {"color": LIGHT["muted"], "fontsize": 12}


def canvas(unit: str, right: int = 10, along: str = "step") -> tuple[Figure, Axes]:
    """Return an empty chart.

    Args:
        unit: what the vertical axis shows, with its unit; written above the axis.
        right: margin kept free for labels at the ends of lines.
        along: what the horizontal axis shows, with its unit.
    """
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
    box = (_LEFT / WIDTH, _BOTTOM / HEIGHT, (WIDTH - _LEFT - right) / WIDTH, (HEIGHT - _TOP - _BOTTOM) / HEIGHT)
    axes = figure.add_axes(box)
    _quiet(axes)
    figure.text(0, (HEIGHT - 12) / HEIGHT, unit, **_TEXT)
    axes.set_xlabel(along, loc="right", labelpad=5, **_TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_NICE))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: short_count(step)))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_NICE))
    return figure, axes


def _quiet(axes: Axes) -> None:
    """Keep the baseline and faint horizontal lines only."""
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT["muted"])
    axes.grid(axis="y", color=LIGHT["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", color=LIGHT["muted"], labelcolor=LIGHT["muted"], labelsize=12, length=4)
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["muted"], labelsize=12)
