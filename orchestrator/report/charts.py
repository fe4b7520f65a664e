"""The charts of the page as inline SVG elements, with a common look; curves are cleaned, smoothed and thinned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from orchestrator.report.formats import TIMES, duration, figure, percent, power_of_ten, short_count
from orchestrator.report.html import LIGHT, inline, part_colours
from orchestrator.report.model import Curve
from workloads.contract import Metric

_MARKERS = ("o", "s", "^", "D")
_LINE_COLOURS = ("blue", "green", "vermillion", "purple")


def curve_chart(curve: Curve, metric: Metric, prefix: str) -> str:
    """Draw one metric over training steps.

    Args:
        curve: at least one point, all values finite.
        metric: what it is, and how it is drawn.
        prefix: of the ids in the SVG.
    """
    scaled, unit = _rescaled(curve, metric.unit)
    drawing, axes = canvas(unit)
    _draw_curve(axes, scaled, metric.noisy)
    if metric.from_zero:
        axes.set_ylim(bottom=0, top=None if max(scaled.values) > 0 else 1)
    if metric.share:
        axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick))
    return inline(drawing, prefix, _summary(curve, metric))


def lines_chart(lines: Mapping[str, Curve], chance: float | None, metric: Metric, prefix: str) -> str:
    """Draw several metrics of one kind over training steps, labelled at the ends of their lines.

    Args:
        lines: label (for example "R@10") to curve; every curve has a point.
        chance: what guessing reaches of the first line.
        metric: one of them, for title, unit and kind of value.
        prefix: of the ids in the SVG.
    """
    drawing, axes = canvas(metric.unit, right=102)
    write = percent if metric.share else figure
    labels = [_labelled_line(axes, curve, name, at, write) for at, (name, curve) in enumerate(lines.items())]
    if chance is not None:
        axes.axhline(chance, color=LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
        labels.append((chance, f"chance {write(chance)}", LIGHT["muted"]))
    axes.set_xlim(left=0)
    if metric.share:
        highest = max(level for curve in lines.values() for level in curve.values)
        axes.set_ylim(0, min(1.02, 1.15 * max(highest, chance or 0, 0.01)))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick))
    _label_ends(axes, labels)
    return inline(drawing, prefix, _lines_summary(lines, chance, metric.title, write))


def time_bar(seconds: Mapping[str, float], prefix: str) -> str:
    """Draw where the time went as one stacked bar; the table next to it has the names.

    Args:
        seconds: part to seconds, at least one above zero.
        prefix: of the ids in the SVG.
    """
    drawing = Figure(figsize=(2 * WIDTH / 72, 36 / 72), dpi=72)
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, math.fsum(seconds.values()))
    left = 0.0
    for span, colour in zip(seconds.values(), part_colours(tuple(seconds)), strict=True):
        axes.barh(0, span, left=left, color=LIGHT[colour], edgecolor=LIGHT["paper"], linewidth=1.5)
        left += span
    axes.set_ylim(-0.4, 0.4)
    parts = ", ".join(f"{part} {percent(span / left)}" for part, span in seconds.items())
    return inline(drawing, prefix, f"Where {duration(left)} went: {parts}")


def _draw_curve(axes: Axes, curve: Curve, noisy: bool) -> None:
    colour = LIGHT["blue"]
    if noisy:
        raw, smoothed = thin(curve), thin(smooth(curve))
        axes.plot(raw.steps, raw.values, color=colour, linewidth=0.8, alpha=0.3)
        axes.plot(smoothed.steps, smoothed.values, color=colour, linewidth=2)
    else:
        thinned = thin(curve)
        axes.plot(thinned.steps, thinned.values, color=colour, linewidth=2)
    if len(curve.steps) == 1:
        axes.plot(curve.steps, curve.values, color=colour, marker="o", markersize=4)


def _percent_tick(share: float, _: int) -> str:
    return f"{round(100 * share, 6):g}"


def _rescaled(curve: Curve, unit: str) -> tuple[Curve, str]:
    """Move a power of ten from tiny values to the axis label."""
    largest = max(abs(value) for value in curve.values)
    if largest == 0 or largest >= 1e-2:
        return curve, unit
    exponent = math.floor(math.log10(largest))
    scaled = Curve(curve.steps, tuple(value * 10.0**-exponent for value in curve.values))
    return scaled, f"{unit} {TIMES} {power_of_ten(exponent)}"


def _labelled_line(
    axes: Axes, curve: Curve, name: str, number: int, write: Callable[[float], str]
) -> tuple[float, str, str]:
    colour = LIGHT[_LINE_COLOURS[number % len(_LINE_COLOURS)]]
    marker = _MARKERS[number % len(_MARKERS)]
    axes.plot(curve.steps, curve.values, color=colour, linewidth=2, marker=marker, markersize=4.5)
    return curve.values[-1], f"{name}  {write(curve.values[-1])}", colour


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write the labels right of the plot at their values, moved apart where they would touch."""
    low, high = axes.get_ylim()
    gap = 0.09 * (high - low)
    last = low - gap
    for level, text, colour in sorted(labels):
        last = max(level, last + gap)
        position = (1.015, last)
        axes.annotate(text, position, xycoords=axes.get_yaxis_transform(), color=colour, fontsize=12, va="center")


def _summary(curve: Curve, metric: Metric) -> str:
    first, last = ends(curve)
    write = percent if metric.share else figure
    return f"{metric.title} over {len(curve.steps):,} logged steps: from {write(first)} to {write(last)}"


def _lines_summary(lines: Mapping[str, Curve], chance: float | None, title: str, write: Callable[[float], str]) -> str:
    levels = ", ".join(f"{name} {write(curve.values[-1])}" for name, curve in lines.items())
    guessed = "" if chance is None else f", chance {write(chance)}"
    return f"{title} at the last evaluation: {levels}{guessed}"


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


def finite(curve: Curve) -> Curve:
    """Return the points of a curve whose value is a finite number."""
    kept = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if np.isfinite(value)]
    return Curve(tuple(step for step, _ in kept), tuple(value for _, value in kept))


def smooth(curve: Curve, share: float = 0.02) -> Curve:
    """Return a curve averaged with a Gaussian window, renormalised at both ends so that it has no lag.

    Args:
        curve: finite values at roughly even steps.
        share: standard deviation of the window as a share of the curve's points.
    """
    width = share * len(curve.values)
    if width < 0.5:
        return curve
    reach = min(int(3 * width) + 1, (len(curve.values) - 1) // 2)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total = np.convolve(np.asarray(curve.values), kernel, mode="same")
    weight = np.convolve(np.ones(len(curve.values)), kernel, mode="same")
    return Curve(curve.steps, tuple((total / weight).tolist()))


def thin(curve: Curve, points: int = 800) -> Curve:
    """Return at most `points` points of a curve: the lowest and the highest of each stretch, so peaks stay."""
    if len(curve.values) <= points:
        return curve
    values = np.asarray(curve.values)
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(values)), points // 2):
        kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
    return Curve(tuple(curve.steps[i] for i in sorted(kept)), tuple(curve.values[i] for i in sorted(kept)))


def ends(curve: Curve, share: float = 0.02) -> tuple[float, float]:
    """Return the means of the first and of the last `share` of a curve's points, at least one point each.

    Raises:
        ValueError: when the curve is empty.
    """
    if not curve.values:
        raise ValueError("an empty curve has no first and last value")
    points = max(1, round(share * len(curve.values)))
    return float(np.mean(curve.values[:points])), float(np.mean(curve.values[-points:]))
