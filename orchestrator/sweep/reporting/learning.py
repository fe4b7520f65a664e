"""An objective over the samples seen, a line per trial, with stops and the scheduler's rungs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.report.charts import HEIGHT, WIDTH, canvas
from orchestrator.report.html import LIGHT, inline
from orchestrator.report.panels import Drawing
from orchestrator.sweep.folder import Point, TrialRecord
from orchestrator.sweep.reporting.figures import BEST, EARLY, WHOLE, beyond, show_values
from orchestrator.sweep.reporting.words import plain

MOST_RUNGS = 12
"""Comparisons of a schedule that are drawn; more would be a hatching."""


def learning_drawing(
    trials: Sequence[TrialRecord], objective: int, metric: str, rungs: Sequence[int], best: str, samples: int
) -> Drawing | None:
    """Draw the trials that did not fail, None when none has reported.

    Args:
        trials: of the sweep.
        objective: number of the objective.
        metric: its name.
        rungs: samples at which the scheduler compares trials.
        best: name of the best trial; empty when there is none.
        samples: that a whole trial sees.
    """
    shown = [(one, _finite(one.points, objective)) for one in trials if one.status != "FAILED"]
    lines = [(one, points) for one, points in shown if points]
    if not lines:
        return None
    drawing, axes = canvas(plain(metric), right=14, along="samples")
    _widen(drawing, axes)
    axes.set_xlim(0, samples * 1.01)
    outside = show_values(axes, [value for _, points in lines for _, value in points])
    if len(rungs) <= MOST_RUNGS:
        for rung in rungs:
            axes.axvline(rung, color=LIGHT["grey"], linewidth=1, linestyle=(0, (2, 3)), zorder=0)
    for one, points in lines:
        _draw(axes, one, points, one.name == best)
    note = beyond(outside, "points are" if outside > 1 else "point is")
    return Drawing(metric, inline(drawing, f"learning-{objective}", _summary(metric, lines)), note)


def _widen(drawing: Figure, axes: Axes) -> None:
    """Make the chart twice as wide, with the margins of the others."""
    box = axes.get_position()
    left, right = box.x0 * WIDTH, (1 - box.x1) * WIDTH
    drawing.set_size_inches(2 * WIDTH / 72, 1.25 * HEIGHT / 72)
    axes.set_position(
        (left / (2 * WIDTH), box.y0 / 1.25, 1 - (left + right) / (2 * WIDTH), 1 - (1 - box.height) / 1.25)
    )
    drawing.texts[0].set_y(1 - 12 / (1.25 * HEIGHT))


def _finite(points: Sequence[Point], objective: int) -> list[tuple[int, float]]:
    return [(one.samples, one.values[objective]) for one in points if math.isfinite(one.values[objective])]


def _draw(axes: Axes, trial: TrialRecord, points: Sequence[tuple[int, float]], best: bool) -> None:
    look: dict[str, Any] = BEST if best else WHOLE if trial.status == "FINISHED" else EARLY
    samples, values = zip(*points, strict=True)
    style: Any = "-" if trial.is_over else (0, (5, 2))
    axes.plot(samples, values, linewidth=2.4 if best else 1.2, alpha=1 if best else 0.7, linestyle=style, **look)
    if len(points) == 1 and trial.status != "STOPPED":
        axes.plot(samples, values, "o", markersize=4, **look)
    if trial.status == "STOPPED":
        axes.plot(samples[-1], values[-1], "x", markersize=6, markeredgewidth=1.5, color=LIGHT["bad"], zorder=4)


def _summary(metric: str, lines: Sequence[tuple[TrialRecord, Sequence[tuple[int, float]]]]) -> str:
    count = {status: sum(one.status == status for one, _ in lines) for status in ("FINISHED", "STOPPED")}
    going_on = len(lines) - sum(count.values())
    return (
        f"{metric} over samples: {count['FINISHED']} trials to their end, {count['STOPPED']} stopped early, "
        f"{going_on} not over"
    )
