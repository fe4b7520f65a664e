"""Two objectives against each other, with the configurations that no other one beats in all of them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import FuncFormatter, MaxNLocator

from orchestrator.report.charts import canvas
from orchestrator.report.html import LIGHT, inline
from orchestrator.report.panels import Drawing
from orchestrator.sweep.reporting.configurations import Configuration
from orchestrator.sweep.reporting.figures import show_values
from orchestrator.sweep.reporting.words import plain, tick_text


def front_drawing(
    whole: Sequence[Configuration], front: Sequence[Configuration], pair: tuple[int, int], metrics: Sequence[str]
) -> Drawing:
    """Draw configurations by two of their objectives.

    Args:
        whole: those that were trained to the end, at least one.
        front: those of them that no other one beats.
        pair: numbers of the objectives along and up.
        metrics: names of the objectives.
    """
    a, b = pair
    drawing, axes = canvas(plain(metrics[b]), right=24, along=plain(metrics[a]))
    show_values(axes, [one.scores[b].mean for one in whole])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    for one in whole:
        best = one in front
        x, y = one.scores[a], one.scores[b]
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
                str(one.number), (x.mean, y.mean), (7, 5), textcoords="offset points", color=LIGHT["ink"], fontsize=12
            )
    numbers = ", ".join(str(one.number) for one in front)
    said = f"{metrics[b]} against {metrics[a]} of {len(whole)} configurations; not beaten: {numbers}"
    return Drawing(f"{metrics[b]} against {metrics[a]}", inline(drawing, f"front-{a}-{b}", said))
