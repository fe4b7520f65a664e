"""The few figures at the top of the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.report.formats import count, duration, figure, percent, times
from orchestrator.report.model import Report
from orchestrator.report.retrieval import best_recall
from orchestrator.report.series import ends, finite


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure: what it is, its value, and what to compare it with."""

    label: str
    value: str
    note: str = ""


def tiles(report: Report) -> list[Tile]:
    """Return the headline figures that the report's data can give."""
    return [*_loss(report), *_recall(report), *_pace(report), *_extent(report), *_cost(report)]


def _loss(report: Report) -> Iterator[Tile]:
    curve = finite(report.curves["loss"]) if "loss" in report.curves else None
    if curve and curve.values:
        first, last = ends(curve)
        yield Tile("Loss", f"{figure(first)} → {figure(last)}", "means of the first and last 2% of steps")


def _recall(report: Report) -> Iterator[Tile]:
    best = best_recall(report.retrieval, report.curves)
    if best is None:
        return
    note = best.where
    if best.chance:
        note = f"{times(best.share / best.chance)} the chance level of {percent(best.chance)}; {best.where}"
    yield Tile(f"Best held-out R@{best.depth}", percent(best.share), note)


def _pace(report: Report) -> Iterator[Tile]:
    headline = report.headline
    if headline.samples_per_s is not None:
        note = f"{count(headline.samples)} samples in all" if headline.samples is not None else ""
        yield Tile("Samples per second", figure(headline.samples_per_s), note)


def _extent(report: Report) -> Iterator[Tile]:
    headline = report.headline
    if headline.wall_time_s is not None:
        yield Tile("Wall time", duration(headline.wall_time_s), _steps(headline.steps, headline.planned_steps))


def _cost(report: Report) -> Iterator[Tile]:
    headline = report.headline
    if headline.usd is None or headline.node_hours is None:
        return
    unpriced = headline.unpriced_node_hours
    note = f"{figure(headline.node_hours)} node-hours"
    yield Tile("Cost", f"{headline.usd:,.2f} USD", f"{note}, {figure(unpriced)} without a price" if unpriced else note)


def _steps(steps: int | None, planned: int | None) -> str:
    if steps is None:
        return ""
    return f"{count(steps)} steps" if planned in (None, steps) else f"{count(steps)} of {count(planned)} steps"
