"""Charts of an objective over several searched keys: filled maps of two, parallel coordinates, and importance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation
from numpy.typing import NDArray

from orchestrator.config.search_space import Parameter, Range
from orchestrator.config.sweep import Assignment
from orchestrator.report.charts import WIDTH, canvas
from orchestrator.report.html import LIGHT, inline
from orchestrator.report.panels import Drawing
from orchestrator.sweep.report.axes import ColourRanks, Scale, label, plain, set_scale, usual
from orchestrator.sweep.results import Configuration
from orchestrator.sweep.sampler import as_optuna, distribution
from orchestrator.sweep.validate import short_keys
from workloads.contract import KeyedRandom

WIDEST = 0.6
"""Longest side of a triangle that is filled, as a share of the axes: nothing is made up across a wide gap."""

ALL_PAIRS = 3
"""Numeric keys up to which every pair has a map; of more, the most important ones have."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A configuration on a map: its positions on both axes, its value, and whether it is the best."""

    x: float
    y: float
    value: float
    best: bool


def mapped_pairs(
    parameters: Sequence[Parameter], ranking: Sequence[str], related: Sequence[tuple[str, str]]
) -> list[tuple[Parameter, Parameter]]:
    """Return the pairs of numeric keys that have a map.

    Args:
        parameters: what is searched.
        ranking: keys by importance.
        related: pairs that have a map whenever both keys are searched.
    """
    numeric = {parameter.key: parameter for parameter in parameters if isinstance(parameter.domain, Range)}
    ranked = [key for key in ranking if key in numeric][:ALL_PAIRS]
    keys = [key for key in numeric if key in ranked]
    pairs = [pair for pair in related if set(pair) <= numeric.keys()]
    pairs += [pair for pair in combinations(keys, 2) if set(pair) not in [set(known) for known in pairs]]
    return [(numeric[a], numeric[b]) for a, b in pairs]


def map_drawing(
    pair: tuple[Parameter, Parameter],
    values: Sequence[tuple[Configuration, float]],
    colours: ColourRanks,
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
    across, up = (Scale(parameter.domain) for parameter in pair)
    a, b = (parameter.key for parameter in pair)
    those = [(tried, value) for tried, value in values if a in tried.assignment and b in tried.assignment]
    if not those:
        return None
    spots = [
        Spot(across.position(tried.assignment[a]), up.position(tried.assignment[b]), value, tried.number == best)
        for tried, value in those
    ]
    drawing, axes = canvas(plain(b), along=plain(a))
    set_scale(axes.xaxis, across, axes.set_xlim)
    set_scale(axes.yaxis, up, axes.set_ylim)
    filled = _fill(axes, spots, colours)
    _draw(axes, spots, colours)
    note = "" if filled else "Too few configurations near each other for a surface: the points alone."
    return Drawing(f"{b} over {a}", inline(drawing, prefix, _map_summary(metric, a, b, spots)), note)


def triangles(x: NDArray[np.float64], y: NDArray[np.float64]) -> Triangulation | None:
    """Return Delaunay triangles between different points with those left out that span a wide gap; None without any."""
    try:
        mesh = Triangulation(x, y)
    except (RuntimeError, ValueError):
        return None
    corners_T3 = mesh.triangles
    sides = [
        np.hypot(x[corners_T3[:, i]] - x[corners_T3[:, j]], y[corners_T3[:, i]] - y[corners_T3[:, j]])
        for i, j in ((0, 1), (1, 2), (2, 0))
    ]
    wide = np.max(sides, axis=0) > WIDEST
    if wide.all():
        return None
    mesh.set_mask(wide)
    return mesh


def _fill(axes: Axes, spots: Sequence[Spot], colours: ColourRanks) -> bool:
    positions = sorted({(spot.x, spot.y) for spot in spots})
    if len(positions) < 3 or colours.edges[0] == colours.edges[-1]:
        return False
    x, y = np.array([position[0] for position in positions]), np.array([position[1] for position in positions])
    means = np.array([np.mean([s.value for s in spots if (s.x, s.y) == position]) for position in positions])
    between = triangles(x, y)
    if between is None:
        return False
    levels = [colours.edges[0] - 1e-9 * abs(colours.edges[0]), *colours.edges[1:]]
    axes.tricontourf(between, means, levels=levels, colors=[LIGHT[name] for name in colours.colours], zorder=1)
    return True


def _draw(axes: Axes, spots: Sequence[Spot], colours: ColourRanks) -> None:
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


def _map_summary(metric: str, a: str, b: str, spots: Sequence[Spot]) -> str:
    values = [spot.value for spot in spots]
    return f"{metric} over {a} and {b}: {len(spots)} configurations, from {min(values):.4g} to {max(values):.4g}"


HEIGHT = 300
NOT_SEARCHED = -0.14
"""Where lines go that have no value of a key."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 24, 84, 46, 14
_CROWDED = 5
"""Axes from which on their names stand on two levels."""


@dataclass(frozen=True, slots=True)
class Column:
    """An axis of the chart: its name, ticks, and each configuration's position, None where its key is not searched."""

    name: str
    ticks: tuple[tuple[float, str], ...]
    positions: tuple[float | None, ...]


def parallel_chart(
    parameters: Sequence[Parameter],
    tried: Sequence[Configuration],
    values: Sequence[Sequence[float]],
    metrics: Sequence[str],
    colours: ColourRanks,
    best: int | None,
) -> str:
    """Draw the configurations.

    Args:
        parameters: what is searched.
        tried: at least one.
        values: of the objectives, one list per configuration.
        metrics: names of the objectives.
        colours: by the first objective.
        best: number of the best configuration.
    """
    columns = [*_keys(parameters, tried), *_objectives(metrics, values)]
    drawing = Figure(figsize=(2 * WIDTH / 72, HEIGHT / 72), dpi=72)
    wide = 2 * WIDTH
    axes = drawing.add_axes(
        (_LEFT / wide, _BOTTOM / HEIGHT, (wide - _LEFT - _RIGHT) / wide, (HEIGHT - _TOP - _BOTTOM) / HEIGHT)
    )
    axes.set_axis_off()
    axes.set_xlim(0, max(1, len(columns) - 1))
    axes.set_ylim(NOT_SEARCHED - 0.06, 1.0)
    worst_first = sorted(range(len(tried)), key=lambda i: colours.colour(values[i][0]))
    for i in worst_first:
        _draw_line(
            axes, [column.positions[i] for column in columns], colours.colour(values[i][0]), tried[i].number == best
        )
    for at, column in enumerate(columns):
        _draw_column(axes, at, column, raised=len(columns) > _CROWDED and at % 2 == 1)
    return inline(drawing, "parallel", _parallel_summary(columns, tried, metrics[0]))


def _keys(parameters: Sequence[Parameter], tried: Sequence[Configuration]) -> list[Column]:
    names = short_keys([parameter.key for parameter in parameters])
    columns = []
    for parameter in parameters:
        scale = Scale(parameter.domain)
        positions = (
            scale.position(c.assignment[parameter.key]) if parameter.key in c.assignment else None for c in tried
        )
        ticks = scale.ticks()
        shown = ticks if not isinstance(parameter.domain, Range) else _few(ticks)
        columns.append(Column(names[parameter.key], tuple(shown), tuple(positions)))
    return columns


def _few(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return ticks if len(ticks) <= 4 else ticks[:: -(-len(ticks) // 4)]


def _objectives(metrics: Sequence[str], values: Sequence[Sequence[float]]) -> list[Column]:
    columns = []
    for number, metric in enumerate(metrics):
        own = [row[number] for row in values]
        low, high = usual(own)
        if low == high:
            columns.append(Column(metric, ((0.5, f"{low:.4g}"),), (0.5,) * len(own)))
            continue
        positions = tuple(min(max((value - low) / (high - low), 0.0), 1.0) for value in own)
        least = f"{low:.4g}" + (" or less" if min(own) < low else "")
        most = f"{high:.4g}" + (" or more" if max(own) > high else "")
        columns.append(Column(metric, ((0.0, least), (1.0, most)), positions))
    return columns


def _draw_line(axes: Axes, positions: Sequence[float | None], colour: str, best: bool) -> None:
    ys = [NOT_SEARCHED if position is None else position for position in positions]
    axes.plot(
        range(len(ys)),
        ys,
        color=LIGHT["vermillion" if best else colour],
        linewidth=2.6 if best else 1.3,
        alpha=1 if best else 0.85,
        zorder=4 if best else 2,
        clip_on=False,
    )


def _draw_column(axes: Axes, at: int, column: Column, raised: bool) -> None:
    axes.plot([at, at], [0, 1], color=LIGHT["muted"], linewidth=1, zorder=3)
    axes.annotate(
        label(column.name.rsplit("/", 1)[-1]),
        (at, 1),
        (0, 28 if raised else 12),
        textcoords="offset points",
        ha="center",
        fontsize=12,
        color=LIGHT["ink"],
    )
    ticks = [*column.ticks]
    if None in column.positions:
        ticks.append((NOT_SEARCHED, "not searched"))
    for position, text in ticks:
        axes.annotate(
            plain(text),
            (at, position),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
            color=LIGHT["muted"],
            zorder=6,
            bbox={"boxstyle": "square,pad=0.12", "facecolor": LIGHT["paper"], "edgecolor": "none", "alpha": 0.75},
        )


def _parallel_summary(columns: Sequence[Column], tried: Sequence[Configuration], metric: str) -> str:
    names = ", ".join(column.name for column in columns)
    return f"{len(tried)} configurations as lines across {names}, coloured by {metric}"


LEAST = 8
"""Configurations below which a forest says nothing: in trials with a known answer it is right from about here on."""


@dataclass(frozen=True, slots=True)
class Importance:
    """The importance of a key.

    Args:
        key: dotted.
        share: of the variation, in [0, 1]; None when there is too little to tell.
        configurations: that it was taken from: those in which the key is searched.
        always: whether it is searched in all of them.
    """

    key: str
    share: float | None
    configurations: int
    always: bool


def importances(
    parameters: Sequence[Parameter], tried: Sequence[tuple[Assignment, float]], seed: int
) -> tuple[Importance, ...]:
    """Return the importance of every key, the largest first.

    A key that is searched only under a condition is measured among the configurations in which it is; its share is one
    of what varies among those. Hutter et al. 2014, "An Efficient Approach for Assessing Hyperparameter Importance".

    Args:
        parameters: what is searched.
        tried: configurations and the objective's value, which is finite.
        seed: key of the forest's draws.
    """
    unsorted = [_importance(parameter, parameters, tried, seed) for parameter in parameters]
    return tuple(sorted(unsorted, key=lambda each: -1.0 if each.share is None else each.share, reverse=True))


def _importance(
    parameter: Parameter, parameters: Sequence[Parameter], tried: Sequence[tuple[Assignment, float]], seed: int
) -> Importance:
    those = [trial for trial in tried if parameter.key in trial[0]]
    shared = [each for each in parameters if all(each.key in assignment for assignment, _ in those)]
    always = len(those) == len(tried)
    varies = len({repr(assignment[parameter.key]) for assignment, _ in those}) > 1
    if len(those) < LEAST or not varies or len({value for _, value in those}) < 2:
        return Importance(parameter.key, None, len(those), always)
    return Importance(parameter.key, _shares(shared, those, seed).get(parameter.key), len(those), always)


def _shares(parameters: Sequence[Parameter], tried: Sequence[tuple[Assignment, float]], seed: int) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for assignment, value in tried:
        study.add_trial(_trial(parameters, assignment, value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=KeyedRandom((seed, "importance")).seed() % 2**32)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}


def _trial(parameters: Sequence[Parameter], assignment: Assignment, value: float) -> Any:
    import optuna

    return optuna.trial.create_trial(
        value=value,
        params={each.key: as_optuna(assignment[each.key], each.domain) for each in parameters},
        distributions={each.key: distribution(each.domain) for each in parameters},
    )
