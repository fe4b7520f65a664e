"""An objective over the values of one searched key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from orchestrator.report.axes import canvas
from orchestrator.report.palette import LIGHT
from orchestrator.report.panels import Drawing
from orchestrator.report.svg import inline
from orchestrator.spec.search_space import Choice, Parameter
from orchestrator.sweep.reporting.configurations import Configuration
from orchestrator.sweep.reporting.figures import BEST, EARLY, WHOLE, aside, beyond, set_scale, show_values
from orchestrator.sweep.reporting.scales import Scale
from orchestrator.sweep.reporting.words import plain

WINDOW = 0.1
"""Standard deviation of the window under which neighbours are averaged, as a share of the axis."""

LEAST = 6
"""Whole configurations from which on a curve is drawn through them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dot:
    """A configuration in the chart: where it is, its mean, its spread, and whether it is whole and the best."""

    number: int
    x: float
    mean: float
    spread: float
    whole: bool
    best: bool


def response_drawing(
    parameter: Parameter, found: Sequence[Configuration], objective: int, metric: str, best: int | None, prefix: str
) -> Drawing | None:
    """Draw an objective over a key, None when no configuration has both.

    Args:
        parameter: the key.
        found: all configurations.
        objective: number of the objective.
        metric: its name.
        best: number of the best configuration.
        prefix: of the ids in the SVG.
    """
    scale = Scale(parameter.domain)
    dots = [_dot(one, scale.place(one.assignment[parameter.key]), objective, best) for one in _with(found, parameter)]
    if not dots:
        return None
    drawing, axes = canvas(plain(metric), along=plain(parameter.key))
    set_scale(axes.xaxis, scale, axes.set_xlim)
    outside = show_values(axes, [dot.mean for dot in dots])
    if scale.is_numeric:
        _draw_curve(axes, [dot for dot in dots if dot.whole])
    else:
        _draw_means(axes, [dot for dot in dots if dot.whole])
    low, high = axes.get_ylim()
    for dot in _apart(dots, parameter):
        if low <= dot.mean <= high:
            _draw(axes, dot)
    without = sum(1 for one in found if one.scores and parameter.key not in one.assignment)
    notes = [beyond(outside, "values are" if outside > 1 else "value is")]
    notes += [f"{without} configurations leave this key as it is in the recipe."] if without else []
    return Drawing(
        parameter.key, inline(drawing, prefix, _summary(parameter, metric, dots)), " ".join(filter(None, notes))
    )


def smoothed(x: Floats, y: Floats, at: Floats) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of neighbours under a Gaussian window; not a number far from any.

    Args:
        x: places in [0, 1], [n].
        y: values, [n].
        at: where to look, [m].
    """
    weight_MN = np.exp(-0.5 * ((at[:, None] - x[None, :]) / WINDOW) ** 2)
    total = weight_MN.sum(axis=1)
    mean = weight_MN @ y / total
    spread = np.sqrt((weight_MN * (y[None, :] - mean[:, None]) ** 2).sum(axis=1) / total)
    far = total < 1
    return np.where(far, np.nan, mean), np.where(far, np.nan, spread)


def _with(found: Sequence[Configuration], parameter: Parameter) -> list[Configuration]:
    return [
        one
        for one in found
        if parameter.key in one.assignment and one.scores and one.outcome in ("whole", "early", "incomplete")
    ]


def _dot(one: Configuration, x: float, objective: int, best: int | None) -> Dot:
    score = one.scores[objective]
    return Dot(one.number, x, score.mean, score.spread or 0.0, one.outcome == "whole", one.number == best)


def _apart(dots: Sequence[Dot], parameter: Parameter) -> list[Dot]:
    """Return the dots moved sideways a little where several have the same value."""
    if len({dot.x for dot in dots}) == len(dots):
        return list(dots)
    choices = len(parameter.domain.values) if isinstance(parameter.domain, Choice) else 0
    width = 0.5 / choices if choices else 0.03
    return [Dot(d.number, d.x + aside(d.number, width), d.mean, d.spread, d.whole, d.best) for d in dots]


def _draw(axes: Axes, dot: Dot) -> None:
    look: dict[str, Any] = BEST if dot.best else WHOLE if dot.whole else EARLY
    face = look["color"] if dot.whole else LIGHT["paper"]
    axes.errorbar(
        dot.x,
        dot.mean,
        yerr=dot.spread or None,
        fmt="o",
        markersize=7 if dot.best else 5,
        markerfacecolor=face,
        markeredgewidth=1.2,
        elinewidth=1.2,
        **look,
    )


def _draw_curve(axes: Axes, dots: Sequence[Dot]) -> None:
    if len(dots) < LEAST or len({dot.x for dot in dots}) < 3:
        return
    x, y = np.array([dot.x for dot in dots]), np.array([dot.mean for dot in dots])
    low, high = axes.get_ylim()
    near = (y >= low) & (y <= high)
    at = np.linspace(x[near].min(), x[near].max(), 60)
    mean, spread = smoothed(x[near], y[near], at)
    axes.fill_between(at, mean - spread, mean + spread, color=LIGHT["sky"], alpha=0.25, linewidth=0, zorder=1)
    axes.plot(at, mean, color=LIGHT["sky"], linewidth=1.8, zorder=1)


def _draw_means(axes: Axes, dots: Sequence[Dot]) -> None:
    for x in {dot.x for dot in dots}:
        mean = np.mean([dot.mean for dot in dots if dot.x == x])
        axes.plot([x - 0.1, x + 0.1], [mean, mean], color=LIGHT["sky"], linewidth=2.5, zorder=1)


def _summary(parameter: Parameter, metric: str, dots: Sequence[Dot]) -> str:
    values = [dot.mean for dot in dots]
    return (
        f"{metric} over {parameter.key}: {len(dots)} configurations, "
        f"from {min(values):.4g} to {max(values):.4g}, {sum(dot.whole for dot in dots)} of them trained to the end"
    )
