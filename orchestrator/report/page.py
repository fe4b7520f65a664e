"""A run's report as one self-contained HTML page: nothing in it is fetched from anywhere."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.report import html
from orchestrator.report.charts import ends, finite, time_bar
from orchestrator.report.formats import count, duration, figure, percent, times
from orchestrator.report.html import environment, frame
from orchestrator.report.images import data_uri, overlay, scale_stops, thumbnail
from orchestrator.report.model import GalleryQuery, Report, WordMaps
from orchestrator.report.panels import LOSSES, OPTIMISATION, THROUGHPUT, best_recall, draw, draw_recalls, tables

SECTIONS = {
    "losses": "Losses",
    "optimisation": "Optimisation",
    "held-out": "Held-out retrieval over time",
    "retrieval": "Retrieval beside chance",
    "gallery": "What captions retrieve",
    "attention": "Where words look",
    "throughput": "Throughput and data wait",
    "time": "Where the time went",
    "skipped": "Skipped samples",
    "recipe": "Resolved recipe",
    "results": "Opening the results",
    "environment": "Environment",
}
"""Id and title of each section, in the page's order; `templates/sections/ID.html.j2` holds its body."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the page: its `data:` URI and the caption, word or alternative text beside it."""

    source: str
    text: str
    score: str = ""
    relevant: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A caption with its pictures."""

    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the wall time."""

    name: str
    seconds: float
    share: float
    colour: str


def render(report: Report) -> str:
    """Return the report as one HTML page.

    The page needs no network and no JavaScript save for its copy button; equal reports give equal pages.

    Raises:
        ValueError: when an image of the gallery or under a heat map cannot be read.
    """
    return environment().get_template("page.html.j2").render(_context(report))


def _context(report: Report) -> dict[str, Any]:
    return {
        **frame(SECTIONS, "sections"),
        "report": report,
        "run": report.run,
        "run_argument": shlex.quote(report.run.name),
        "recipe_argument": shlex.quote(report.run.recipe),
        "tiles": tiles(report),
        **_charts(report),
        "tables": tables(report.retrieval),
        "gallery": [_gallery_row(query) for query in report.gallery],
        "heat_maps": [_heat_row(maps) for maps in report.heat_maps],
        "scale": scale_stops(),
        "parts": _parts(report),
    }


def _charts(report: Report) -> dict[str, Any]:
    spent = _positive_time(report)
    return {
        "losses": draw(report.curves, LOSSES),
        "optimisation": draw(report.curves, OPTIMISATION),
        "throughput": draw(report.curves, THROUGHPUT),
        "held_out": draw_recalls(report.curves),
        "time_bar": time_bar(spent, "time") if spent else "",
    }


def _positive_time(report: Report) -> dict[str, float]:
    return {part: seconds for part, seconds in report.time.items() if seconds > 0}


def _parts(report: Report) -> list[Part]:
    spent = _positive_time(report)
    total = math.fsum(spent.values())
    colours = html.part_colours(tuple(spent))
    return [Part(name, spent[name], spent[name] / total, colour) for name, colour in zip(spent, colours, strict=True)]


def _gallery_row(query: GalleryQuery) -> Row:
    pictures = tuple(
        Picture(
            data_uri(thumbnail(found.image, f"image {rank} that {query.caption!r} retrieved")),
            found.caption,
            f"{found.score:.3f}",
            found.relevant,
        )
        for rank, found in enumerate(query.images, 1)
    )
    return Row(query.caption, pictures)


def _heat_row(maps: WordMaps) -> Row:
    caption = " ".join(maps.words)
    original = Picture(data_uri(thumbnail(maps.image, f"the image of {caption!r}", side=160)), "image")
    overlays = (
        Picture(data_uri(overlay(maps.image, map_HW)), word)
        for word, map_HW in zip(maps.words, maps.maps_WHW, strict=True)
    )
    return Row(caption, (original, *overlays))


# The few figures at the top of the page.


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
