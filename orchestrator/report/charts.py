"""The charts of the page, each returned as an inline SVG element."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from orchestrator.report.axes import WIDTH, canvas
from orchestrator.report.formats import TIMES, duration, figure, percent, power_of_ten
from orchestrator.report.model import Curve
from orchestrator.report.palette import LIGHT, part_colours
from orchestrator.report.series import ends, smooth, thin
from orchestrator.report.svg import inline

_MARKERS = ("o", "s", "^", "D")
_LINE_COLOURS = ("blue", "green", "vermillion", "purple")


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How one metric is drawn.

    Args:
        title: what the metric is called on the page.
        unit: what the vertical axis shows, with its unit.
        colour: name in the palette.
        noisy: draw the logged values thinly behind a smoothed line.
        from_zero: let the vertical axis start at zero.
        share: the values are shares in [0, 1], shown as percentages.
    """

    title: str
    unit: str
    colour: str = "blue"
    noisy: bool = False
    from_zero: bool = False
    share: bool = False


def curve_chart(curve: Curve, style: Style, prefix: str) -> str:
    """Draw one metric over training steps.

    Args:
        curve: at least one point, all values finite.
        style: how to draw it.
        prefix: of the ids in the SVG.
    """
    scaled, unit = _rescaled(curve, style.unit)
    drawing, axes = canvas(unit)
    _draw_curve(axes, scaled, style)
    if style.from_zero:
        axes.set_ylim(bottom=0, top=None if max(scaled.values) > 0 else 1)
    if style.share:
        axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick))
    return inline(drawing, prefix, _summary(curve, style))


def recall_chart(lines: Mapping[str, Curve], chance: float | None, prefix: str, title: str) -> str:
    """Draw recalls over training steps, labelled at the ends of their lines.

    Args:
        lines: label (for example "R@10") to recall, a share in [0, 1]; every curve has a point.
        chance: the chance level of the highest line, as a share.
        prefix: of the ids in the SVG.
        title: what is searched with what.
    """
    drawing, axes = canvas("recall (%)", right=102)
    labels = [_recall_line(axes, curve, name, place) for place, (name, curve) in enumerate(lines.items())]
    if chance is not None:
        axes.axhline(chance, color=LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
        labels.append((chance, f"chance {percent(chance)}", LIGHT["muted"]))
    highest = max(level for curve in lines.values() for level in curve.values)
    axes.set_xlim(left=0)
    axes.set_ylim(0, min(1.02, 1.15 * max(highest, chance or 0, 0.01)))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick))
    _label_ends(axes, labels)
    return inline(drawing, prefix, _recall_summary(lines, chance, title))


def time_bar(seconds: Mapping[str, float], prefix: str) -> str:
    """Draw where the time went as one stacked bar; the table beside it carries the names.

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


def _draw_curve(axes: Axes, curve: Curve, style: Style) -> None:
    colour = LIGHT[style.colour]
    if style.noisy:
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


def _recall_line(axes: Axes, curve: Curve, name: str, place: int) -> tuple[float, str, str]:
    colour = LIGHT[_LINE_COLOURS[place % len(_LINE_COLOURS)]]
    marker = _MARKERS[place % len(_MARKERS)]
    axes.plot(curve.steps, curve.values, color=colour, linewidth=2, marker=marker, markersize=4.5)
    return curve.values[-1], f"{name}  {percent(curve.values[-1])}", colour


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write the labels right of the plot at their values, moved apart where they would touch."""
    gap = 0.09 * axes.get_ylim()[1]
    last = -gap
    for level, text, colour in sorted(labels):
        last = max(level, last + gap)
        place = (1.015, last)
        axes.annotate(text, place, xycoords=axes.get_yaxis_transform(), color=colour, fontsize=12, va="center")


def _summary(curve: Curve, style: Style) -> str:
    first, last = ends(curve)
    write = percent if style.share else figure
    return f"{style.title} over {len(curve.steps):,} logged steps: from {write(first)} to {write(last)}"


def _recall_summary(lines: Mapping[str, Curve], chance: float | None, title: str) -> str:
    levels = ", ".join(f"{name} {percent(curve.values[-1])}" for name, curve in lines.items())
    beside = "" if chance is None else f", chance {percent(chance)}"
    return f"{title}, recall at the last evaluation: {levels}{beside}"
