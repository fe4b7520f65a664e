"""The charts of a sweep's report over one axis: response curves, learning curves and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from orchestrator.config.search_space import Choice, Parameter
from orchestrator.report.charts import HEIGHT, WIDTH, canvas
from orchestrator.report.html import LIGHT, inline
from orchestrator.report.panels import Drawing
from orchestrator.sweep.folder import Point, TrialRecord
from orchestrator.sweep.report.axes import (
    BEST,
    EARLY,
    WHOLE,
    Scale,
    jitter,
    outlier_note,
    plain,
    set_scale,
    show_values,
    tick_text,
)
from orchestrator.sweep.report.sweep_results import SweepResults
from orchestrator.sweep.results import Configuration, Score

WINDOW = 0.1
"""Standard deviation of the Gaussian window of the trend, as a share of the axis."""

MIN_TREND_CONFIGURATIONS = 6
"""Minimum number of configurations for a trend."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dot:
    """A configuration in the chart.

    Args:
        number: of the configuration.
        x: position of its value of the key, in [0, 1].
        score: its objective.
        whole: whether the score is of the end of its training, not of the samples at which all are compared.
        best: whether it is the best.
    """

    number: int
    x: float
    score: Score
    whole: bool
    best: bool

    @property
    def y(self) -> float:
        """The mean over its replicas."""
        return self.score.mean


def response_drawing(parameter: Parameter, results: SweepResults, objective: int, prefix: str) -> Drawing | None:
    """Draw an objective over a searched key; None when no configuration has both.

    Configurations that were trained to the end are drawn with their final scores. Where some were stopped before, all
    are also drawn with their scores after the samples that nearly all have seen.

    Args:
        parameter: the key.
        results: of the sweep.
        objective: number of the objective.
        prefix: of the ids in the SVG.
    """
    scale = Scale(parameter.domain)
    whole = [
        _dot(each, parameter, scale, each.scores[objective], results) for each in _with_key(parameter, results.whole)
    ]
    compared = [
        replace(_dot(each, parameter, scale, each.at(results.compared_at)[objective], results), whole=False)
        for each in _with_key(parameter, results.compared if results.some_less_far else ())
    ]
    dots = [*compared, *whole]
    if not dots:
        return None
    metric = results.metrics[objective]
    drawing, axes = canvas(plain(metric), along=plain(parameter.key))
    set_scale(axes.xaxis, scale, axes.set_xlim)
    outside = show_values(axes, [dot.y for dot in dots])
    _draw_trend(axes, compared or whole, scale)
    low, high = axes.get_ylim()
    for dot in _jittered(dots, parameter):
        if low <= dot.y <= high:
            _draw_response(axes, dot)
    note = " ".join(
        filter(None, [outlier_note(outside, "values are" if outside > 1 else "value is"), _without(parameter, results)])
    )
    return Drawing(parameter.key, inline(drawing, prefix, _response_summary(parameter, metric, whole, compared)), note)


def smoothed(x: Floats, y: Floats, at: Floats) -> tuple[Floats, Floats]:
    """Return the mean and standard deviation under a Gaussian window; NaN far from all points.

    Args:
        x: positions in [0, 1], [n].
        y: values, [n].
        at: positions to evaluate at, [m].
    """
    weight_MN = np.exp(-0.5 * ((at[:, None] - x[None, :]) / WINDOW) ** 2)
    total = weight_MN.sum(axis=1)
    mean = weight_MN @ y / total
    spread = np.sqrt((weight_MN * (y[None, :] - mean[:, None]) ** 2).sum(axis=1) / total)
    far = total < 1
    return np.where(far, np.nan, mean), np.where(far, np.nan, spread)


def _with_key(parameter: Parameter, configurations: Sequence[Configuration]) -> list[Configuration]:
    return [each for each in configurations if parameter.key in each.assignment]


def _dot(configuration: Configuration, parameter: Parameter, scale: Scale, score: Score, results: SweepResults) -> Dot:
    best = results.best.first
    return Dot(
        configuration.number,
        scale.position(configuration.assignment[parameter.key]),
        score,
        True,
        best is not None and best.number == configuration.number,
    )


def _without(parameter: Parameter, results: SweepResults) -> str:
    numbers = {each.number for each in (*results.whole, *results.compared) if parameter.key not in each.assignment}
    if not numbers:
        return ""
    leave = "configuration leaves" if len(numbers) == 1 else "configurations leave"
    return f"{len(numbers)} {leave} this key as it is in the recipe."


def _jittered(dots: Sequence[Dot], parameter: Parameter) -> list[Dot]:
    """Return the dots with horizontal jitter where several configurations have the same value."""
    if len({dot.x for dot in dots}) == len({dot.number for dot in dots}):
        return list(dots)
    choices = len(parameter.domain.values) if isinstance(parameter.domain, Choice) else 0
    width = 0.5 / choices if choices else 0.03
    return [replace(dot, x=dot.x + jitter(dot.number, width)) for dot in dots]


def _draw_response(axes: Axes, dot: Dot) -> None:
    look: dict[str, Any] = EARLY if not dot.whole else BEST if dot.best else WHOLE
    axes.errorbar(
        dot.x,
        dot.y,
        yerr=dot.score.spread or None,
        fmt="o",
        markersize=7 if dot.best and dot.whole else 5,
        markerfacecolor=look["color"] if dot.whole else LIGHT["paper"],
        markeredgewidth=1.2,
        elinewidth=1.2,
        **look,
    )


def _draw_trend(axes: Axes, dots: Sequence[Dot], scale: Scale) -> None:
    """Draw the objective's trend over the key, if enough configurations are within the chart."""
    low, high = axes.get_ylim()
    inside = [dot for dot in dots if low <= dot.y <= high]
    x, y = np.array([dot.x for dot in inside]), np.array([dot.y for dot in inside])
    if not scale.is_numeric:
        _draw_means(axes, x, y)
    elif len(inside) >= MIN_TREND_CONFIGURATIONS and len(set(x.tolist())) > 2:
        at = np.linspace(x.min(), x.max(), 60)
        mean, spread = smoothed(x, y, at)
        axes.fill_between(at, mean - spread, mean + spread, color=LIGHT["sky"], alpha=0.25, linewidth=0, zorder=1)
        axes.plot(at, mean, color=LIGHT["sky"], linewidth=1.8, zorder=1)


def _draw_means(axes: Axes, x: Floats, y: Floats) -> None:
    for position in sorted(set(x.tolist())):
        mean = y[x == position].mean()
        axes.plot([position - 0.1, position + 0.1], [mean, mean], color=LIGHT["sky"], linewidth=2.5, zorder=1)


def _response_summary(parameter: Parameter, metric: str, whole: Sequence[Dot], compared: Sequence[Dot]) -> str:
    parts = [f"{metric} over {parameter.key}"]
    for dots, description in ((whole, "trained to the end"), (compared, "after the samples that nearly all have seen")):
        if dots:
            values = [dot.y for dot in dots]
            parts.append(f"{len(dots)} configurations {description}, from {min(values):.4g} to {max(values):.4g}")
    return "; ".join(parts)


MOST_RUNGS = 12
"""Maximum number of rungs that are drawn; more would hide the curves."""


def learning_drawing(
    trials: Sequence[TrialRecord], objective: int, metric: str, rungs: Sequence[int], best: str, samples: int
) -> Drawing | None:
    """Draw the trials that did not fail; None when none has reported.

    Args:
        trials: of the sweep.
        objective: number of the objective.
        metric: its name.
        rungs: samples at which the scheduler compares trials.
        best: name of the best trial; empty when there is none.
        samples: of a trial that is trained to the end.
    """
    shown = [(trial, _finite(trial.points, objective)) for trial in trials if trial.status != "FAILED"]
    lines = [(trial, points) for trial, points in shown if points]
    if not lines:
        return None
    drawing, axes = canvas(plain(metric), right=14, along="samples")
    _widen(drawing, axes)
    axes.set_xlim(0, samples * 1.01)
    outside = show_values(axes, [value for _, points in lines for _, value in points])
    if len(rungs) <= MOST_RUNGS:
        for rung in rungs:
            axes.axvline(rung, color=LIGHT["grey"], linewidth=1, linestyle=(0, (2, 3)), zorder=0)
    for trial, points in lines:
        _draw_learning(axes, trial, points, trial.name == best)
    note = outlier_note(outside, "points are" if outside > 1 else "point is")
    return Drawing(metric, inline(drawing, f"learning-{objective}", _learning_summary(metric, lines)), note)


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
    return [(point.samples, point.values[objective]) for point in points if math.isfinite(point.values[objective])]


def _draw_learning(axes: Axes, trial: TrialRecord, points: Sequence[tuple[int, float]], best: bool) -> None:
    look: dict[str, Any] = BEST if best else WHOLE if trial.status == "FINISHED" else EARLY
    samples, values = zip(*points, strict=True)
    style: Any = "-" if trial.is_over else (0, (5, 2))
    axes.plot(samples, values, linewidth=2.4 if best else 1.2, alpha=1 if best else 0.7, linestyle=style, **look)
    if len(points) == 1 and trial.status != "STOPPED":
        axes.plot(samples, values, "o", markersize=4, **look)
    if trial.status == "STOPPED":
        axes.plot(samples[-1], values[-1], "x", markersize=6, markeredgewidth=1.5, color=LIGHT["bad"], zorder=4)


def _learning_summary(metric: str, lines: Sequence[tuple[TrialRecord, Sequence[tuple[int, float]]]]) -> str:
    count = {status: sum(trial.status == status for trial, _ in lines) for status in ("FINISHED", "STOPPED")}
    going_on = len(lines) - sum(count.values())
    return (
        f"{metric} over samples: {count['FINISHED']} trials to their end, {count['STOPPED']} stopped early, "
        f"{going_on} not over"
    )


def front_drawing(
    whole: Sequence[Configuration], front: Sequence[Configuration], pair: tuple[int, int], metrics: Sequence[str]
) -> Drawing:
    """Draw configurations by two of their objectives.

    Args:
        whole: those that were trained to the end, at least one.
        front: those on the Pareto front.
        pair: numbers of the objectives on the horizontal and vertical axes.
        metrics: names of the objectives.
    """
    a, b = pair
    drawing, axes = canvas(plain(metrics[b]), right=24, along=plain(metrics[a]))
    show_values(axes, [each.scores[b].mean for each in whole])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    for each in whole:
        best = each in front
        x, y = each.scores[a], each.scores[b]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=x.spread,
            yerr=y.spread,
            fmt="o",
            color=LIGHT["vermillion" if best else "blue"],
            markersize=7 if best else 5,
            elinewidth=1,
            alpha=1 if best else 0.6,
            zorder=4 if best else 2,
        )
        if best:
            axes.annotate(
                str(each.number), (x.mean, y.mean), (7, 5), textcoords="offset points", color=LIGHT["ink"], fontsize=12
            )
    numbers = ", ".join(str(each.number) for each in front)
    summary = f"{metrics[b]} against {metrics[a]} of {len(whole)} configurations; not beaten: {numbers}"
    return Drawing(f"{metrics[b]} against {metrics[a]}", inline(drawing, f"front-{a}-{b}", summary))
