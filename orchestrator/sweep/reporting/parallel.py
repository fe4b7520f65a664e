"""Every configuration as a line across all searched keys and on to the objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.config.search_space import Parameter, Range
from orchestrator.report.charts import WIDTH
from orchestrator.report.html import LIGHT, inline
from orchestrator.sweep.describing import short_keys
from orchestrator.sweep.reporting.configurations import Configuration
from orchestrator.sweep.reporting.figures import usual
from orchestrator.sweep.reporting.grades import Grades
from orchestrator.sweep.reporting.scales import Scale
from orchestrator.sweep.reporting.words import label, plain

HEIGHT = 300
NOT_SEARCHED = -0.14
"""Where lines go that have no value of a key."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 24, 84, 46, 14
_CROWDED = 5
"""Axes from which on their names stand on two levels."""


@dataclass(frozen=True, slots=True)
class Column:
    """An axis of the figure: its name, its ticks, and the place of every configuration, None where it has none."""

    name: str
    ticks: tuple[tuple[float, str], ...]
    places: tuple[float | None, ...]


def parallel_chart(
    parameters: Sequence[Parameter],
    tried: Sequence[Configuration],
    values: Sequence[Sequence[float]],
    metrics: Sequence[str],
    colours: Grades,
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
            axes, [column.places[i] for column in columns], colours.colour(values[i][0]), tried[i].number == best
        )
    for at, column in enumerate(columns):
        _draw_column(axes, at, column, raised=len(columns) > _CROWDED and at % 2 == 1)
    return inline(drawing, "parallel", _summary(columns, tried, metrics[0]))


def _keys(parameters: Sequence[Parameter], tried: Sequence[Configuration]) -> list[Column]:
    names = short_keys([one.key for one in parameters])
    columns = []
    for one in parameters:
        scale = Scale(one.domain)
        places = (scale.place(c.assignment[one.key]) if one.key in c.assignment else None for c in tried)
        ticks = scale.ticks()
        shown = ticks if not isinstance(one.domain, Range) else _few(ticks)
        columns.append(Column(names[one.key], tuple(shown), tuple(places)))
    return columns


def _few(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return ticks if len(ticks) <= 4 else ticks[:: -(-len(ticks) // 4)]


def _objectives(metrics: Sequence[str], values: Sequence[Sequence[float]]) -> list[Column]:
    columns = []
    for number, metric in enumerate(metrics):
        own = [one[number] for one in values]
        low, high = usual(own)
        if low == high:
            columns.append(Column(metric, ((0.5, f"{low:.4g}"),), (0.5,) * len(own)))
            continue
        places = tuple(min(max((value - low) / (high - low), 0.0), 1.0) for value in own)
        least = f"{low:.4g}" + (" or less" if min(own) < low else "")
        most = f"{high:.4g}" + (" or more" if max(own) > high else "")
        columns.append(Column(metric, ((0.0, least), (1.0, most)), places))
    return columns


def _draw_line(axes: Axes, places: Sequence[float | None], colour: str, best: bool) -> None:
    ys = [NOT_SEARCHED if place is None else place for place in places]
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
    if None in column.places:
        ticks.append((NOT_SEARCHED, "not searched"))
    for place, text in ticks:
        axes.annotate(
            plain(text),
            (at, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
            color=LIGHT["muted"],
            zorder=6,
            bbox={"boxstyle": "square,pad=0.12", "facecolor": LIGHT["paper"], "edgecolor": "none", "alpha": 0.75},
        )


def _summary(columns: Sequence[Column], tried: Sequence[Configuration], metric: str) -> str:
    names = ", ".join(column.name for column in columns)
    return f"{len(tried)} configurations as lines across {names}, coloured by {metric}"
