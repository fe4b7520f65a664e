"""A run's report as one self-contained HTML page, which fetches nothing: headline tiles, panels and sections."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.commands import command_line
from orchestrator.report import html
from orchestrator.report.charts import ends, finite, time_bar
from orchestrator.report.formats import count, duration, figure, percent, times
from orchestrator.report.html import environment, frame
from orchestrator.report.images import data_uri, overlay, scale_stops, thumbnail
from orchestrator.report.model import EvaluatedCheckpoint, Report, Run
from orchestrator.report.panels import (
    THROUGHPUT,
    DrawnPanel,
    best_evaluations,
    draw,
    draw_panels,
    show_tables,
    value_text,
)
from workloads.contract import GalleryRow, Metric, Picture

SECTIONS = {
    "throughput": "Throughput and data wait",
    "time": "Where the time went",
    "skipped": "Skipped samples",
    "recipe": "Resolved recipe",
    "results": "Opening the results",
    "environment": "Environment",
}
"""Id and title of the sections that every page ends with; `templates/sections/ID.html.j2` holds the body."""

RESULTS = ("held-out-results", "Held-out results")
SMALL_SIDE = 160
"""Side of the picture that begins a row of maps, in pixels."""


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """An image of the page: its `data:` URI, the text beneath it and its notes."""

    source: str
    text: str
    alternative: str
    score: str = ""
    correct: bool = False


@dataclass(frozen=True, slots=True)
class ShownGallery:
    """A section of examples: maps are laid out as small multiples, other pictures as ranked lists."""

    title: str
    text: str
    rows: tuple[tuple[str, tuple[ShownPicture, ...]], ...]
    has_maps: bool
    has_answers: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the wall time."""

    name: str
    seconds: float
    share: float
    colour: str


def render(report: Report) -> str:
    """Return the report as one HTML page.

    The page needs no network and no JavaScript except for its copy button; equal reports give equal pages.

    Raises:
        ValueError: when an image of the gallery or under a heat map cannot be read.
    """
    return environment().get_template("page.html.j2").render(_context(report))


def _context(report: Report) -> dict[str, Any]:
    panels = {panel.id: panel for panel in draw_panels(report.curves, report.metrics)}
    galleries = {f"gallery-{number}": gallery for number, gallery in enumerate(_galleries(report.evaluated), 1)}
    spent = _positive_time(report)
    titles, templates = _sections(panels, galleries)
    return {
        **frame(titles, "sections", templates),
        "report": report,
        "run": report.run,
        **_commands(report.run),
        "tiles": tiles(report),
        "panels": panels,
        "tables": show_tables(report.evaluated.evaluation, report.metrics) if report.evaluated else [],
        "galleries": galleries,
        "scale": scale_stops(),
        "throughput": draw(report.curves, THROUGHPUT),
        "time_bar": time_bar(spent, "time") if spent else "",
        "parts": _parts(report),
    }


def _commands(run: Run) -> dict[str, str]:
    folder = run.folder or run.name
    return {
        "evaluate_command": command_line("evaluate", folder, endpoint=run.endpoint),
        "resume_command": command_line("train", run.recipe, resume=folder),
        "dry_run_command": command_line("train", run.recipe, dry_run=True),
    }


def _sections(
    panels: Mapping[str, DrawnPanel], galleries: Mapping[str, ShownGallery]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return ids and titles of all sections in the page's order, and the templates of those not named by their id."""
    titles = {id_: panel.panel.title for id_, panel in panels.items()}
    titles |= dict([RESULTS]) | {id_: gallery.title for id_, gallery in galleries.items()} | SECTIONS
    return titles, dict.fromkeys(panels, "panel") | dict.fromkeys(galleries, "gallery")


def _positive_time(report: Report) -> dict[str, float]:
    return {part: seconds for part, seconds in report.time.items() if seconds > 0}


def _parts(report: Report) -> list[Part]:
    spent = _positive_time(report)
    total = math.fsum(spent.values())
    colours = html.part_colours(tuple(spent))
    return [Part(name, spent[name], spent[name] / total, colour) for name, colour in zip(spent, colours, strict=True)]


def _galleries(evaluated: EvaluatedCheckpoint | None) -> Iterator[ShownGallery]:
    if evaluated is None:
        return
    for gallery in evaluated.evaluation.galleries:
        pictures = [picture for row in gallery.rows for picture in row.pictures]
        has_maps = any(picture.map_HW is not None for picture in pictures)
        rows = tuple((row.text, _gallery_row(row, evaluated.images, has_maps)) for row in gallery.rows)
        has_answers = any(picture.correct is not None for picture in pictures)
        yield ShownGallery(gallery.title, gallery.text, rows, has_maps, has_answers)


def _gallery_row(row: GalleryRow, images: Mapping[int, bytes], has_maps: bool) -> tuple[ShownPicture, ...]:
    return tuple(
        _shown(picture, images[picture.index], f"image {number} of {row.text!r}", row.text if has_maps else "")
        for number, picture in enumerate(row.pictures, 1)
    )


def _shown(picture: Picture, image: bytes, what: str, mapped_text: str) -> ShownPicture:
    score = "" if picture.score is None else f"{picture.score:.3f}"
    if picture.map_HW is not None:
        source = data_uri(overlay(image, picture.map_HW))
        alternative = (
            f"Where \N{LEFT DOUBLE QUOTATION MARK}{picture.text}\N{RIGHT DOUBLE QUOTATION MARK} looks in the image"
        )
    elif mapped_text:
        source = data_uri(thumbnail(image, what, side=SMALL_SIDE))
        alternative = f"The image of: {mapped_text}"
    else:
        source = data_uri(thumbnail(image, what))
        alternative = picture.text or "image without a caption"
    return ShownPicture(source, picture.text, alternative, score, bool(picture.correct))


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline number: what it is, its value, and what to compare it with."""

    label: str
    value: str
    note: str = ""


def tiles(report: Report) -> list[Tile]:
    """Return the headline numbers that the report's data can give."""
    return [*_steps_tiles(report), *_best(report), *_pace(report), *_extent(report), *_cost(report)]


def _steps_tiles(report: Report) -> Iterator[Tile]:
    for metric in (*report.metrics.steps, *report.metrics.some_steps):
        curve = finite(report.curves[metric.name]) if metric.headline and metric.name in report.curves else None
        if curve and curve.values:
            first, last = (percent(value) if metric.share else figure(value) for value in ends(curve))
            yield Tile(_label(metric), f"{first} → {last}", "means of the first and last 2% of steps")


def _label(metric: Metric) -> str:
    label = metric.label or metric.title
    return label[:1].upper() + label[1:]


def _best(report: Report) -> Iterator[Tile]:
    evaluation = report.evaluated.evaluation if report.evaluated else None
    for best in best_evaluations(report.curves, evaluation, report.metrics):
        where = best.metric.title.lower() + (f", at step {best.step:,}" if best.step is not None else "")
        if best.chance:
            ratio, chance = times(best.value / best.chance), value_text(best.chance, best.metric)
            where = f"{ratio} the chance level of {chance}; {where}"
        yield Tile(
            f"Best held-out {best.metric.label or best.metric.title}", value_text(best.value, best.metric), where
        )


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
