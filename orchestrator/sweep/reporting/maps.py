"""An objective over two searched keys at once, as a filled map between the configurations that were tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from orchestrator.config.search_space import Parameter, Range
from orchestrator.report.charts import canvas
from orchestrator.report.html import LIGHT, inline
from orchestrator.report.panels import Drawing
from orchestrator.sweep.reporting.configurations import Configuration
from orchestrator.sweep.reporting.figures import set_scale
from orchestrator.sweep.reporting.grades import Grades
from orchestrator.sweep.reporting.scales import Scale
from orchestrator.sweep.reporting.words import plain

WIDEST = 0.6
"""Longest side of a triangle that is filled, as a share of the axes: nothing is made up across a wide gap."""

ALL_PAIRS = 3
"""Numeric keys up to which every pair has a map; of more, the most important ones have."""

ALWAYS = ("distillation.alpha", "adversarial.step_size")
"""A pair that has a map whenever both are searched: how soft the targets are, and how large the perturbation."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A configuration on a map: its places on both axes, its value, and whether it is the best."""

    x: float
    y: float
    value: float
    best: bool


def mapped_pairs(parameters: Sequence[Parameter], ranking: Sequence[str]) -> list[tuple[Parameter, Parameter]]:
    """Return the pairs of numeric keys that have a map.

    Args:
        parameters: what is searched.
        ranking: keys by importance.
    """
    numeric = {one.key: one for one in parameters if isinstance(one.domain, Range)}
    ranked = [key for key in ranking if key in numeric][:ALL_PAIRS]
    keys = [key for key in numeric if key in ranked]
    pairs = [ALWAYS] if set(ALWAYS) <= numeric.keys() else []
    pairs += [pair for pair in combinations(keys, 2) if set(pair) not in [set(one) for one in pairs]]
    return [(numeric[a], numeric[b]) for a, b in pairs]


def map_drawing(
    pair: tuple[Parameter, Parameter],
    values: Sequence[tuple[Configuration, float]],
    colours: Grades,
    metric: str,
    best: int | None,
    prefix: str,
) -> Drawing | None:
    """Draw a map, None when no configuration has both keys.

    Args:
        pair: keys along and up.
        values: configurations and the objective's value.
        colours: of the values.
        metric: the objective's name.
        best: number of the best configuration.
        prefix: of the ids in the SVG.
    """
    across, up = (Scale(one.domain) for one in pair)
    a, b = (one.key for one in pair)
    those = [(one, value) for one, value in values if a in one.assignment and b in one.assignment]
    if not those:
        return None
    spots = [
        Spot(across.place(one.assignment[a]), up.place(one.assignment[b]), value, one.number == best)
        for one, value in those
    ]
    drawing, axes = canvas(plain(b), along=plain(a))
    set_scale(axes.xaxis, across, axes.set_xlim)
    set_scale(axes.yaxis, up, axes.set_ylim)
    filled = _fill(axes, spots, colours)
    _draw(axes, spots, colours)
    note = "" if filled else "Too few configurations near each other for a surface: the points alone."
    return Drawing(f"{b} over {a}", inline(drawing, prefix, _summary(metric, a, b, spots)), note)


def triangles(x: NDArray[np.float64], y: NDArray[np.float64]) -> Triangulation | None:
    """Return Delaunay triangles between different points with those left out that span a wide gap; None without any."""
    try:
        found = Triangulation(x, y)
    except (RuntimeError, ValueError):
        return None
    corners_T3 = found.triangles
    sides = [
        np.hypot(x[corners_T3[:, i]] - x[corners_T3[:, j]], y[corners_T3[:, i]] - y[corners_T3[:, j]])
        for i, j in ((0, 1), (1, 2), (2, 0))
    ]
    wide = np.max(sides, axis=0) > WIDEST
    if wide.all():
        return None
    found.set_mask(wide)
    return found


def _fill(axes: Axes, spots: Sequence[Spot], colours: Grades) -> bool:
    places = sorted({(spot.x, spot.y) for spot in spots})
    if len(places) < 3 or colours.edges[0] == colours.edges[-1]:
        return False
    x, y = np.array([place[0] for place in places]), np.array([place[1] for place in places])
    means = np.array([np.mean([s.value for s in spots if (s.x, s.y) == place]) for place in places])
    between = triangles(x, y)
    if between is None:
        return False
    levels = [colours.edges[0] - 1e-9 * abs(colours.edges[0]), *colours.edges[1:]]
    axes.tricontourf(between, means, levels=levels, colors=[LIGHT[one] for one in colours.colours], zorder=1)
    return True


def _draw(axes: Axes, spots: Sequence[Spot], colours: Grades) -> None:
    for spot in spots:
        axes.plot(
            spot.x,
            spot.y,
            "o",
            markersize=9 if spot.best else 6,
            markerfacecolor=LIGHT[colours.colour(spot.value)],
            markeredgecolor=LIGHT["vermillion" if spot.best else "ink"],
            markeredgewidth=2.2 if spot.best else 0.8,
            zorder=5 if spot.best else 3,
        )


def _summary(metric: str, a: str, b: str, spots: Sequence[Spot]) -> str:
    values = [spot.value for spot in spots]
    return f"{metric} over {a} and {b}: {len(spots)} configurations, from {min(values):.4g} to {max(values):.4g}"
