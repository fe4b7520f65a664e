"""Retrieval metrics, which arrive as a flat mapping, as tables and as one headline figure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.report.model import Curves, RetrievalMetrics
from orchestrator.report.series import finite

DIRECTIONS = {"text_to_image": "Text → image", "image_to_text": "Image → text"}
"""Direction as metrics name it, and as the page does."""

RANKINGS = {"": "Contrastive", "reranked/": "Re-ranked with ITM"}
"""Prefix of a ranking's metrics, and its name on the page."""

_RECALL = re.compile(r"(?P<ranking>reranked/)?(?P<direction>[^/]+)/recall@(?P<depth>\d+)")


@dataclass(frozen=True, slots=True)
class Row:
    """One ranking: its recall at each depth (None where it was not measured) and the median rank of the right item."""

    ranking: str
    recalls: tuple[float | None, ...]
    median_rank: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """One direction of search: depths, the chance level at each (None where unknown) and a row per ranking."""

    direction: str
    depths: tuple[int, ...]
    chances: tuple[float | None, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class BestRecall:
    """The highest held-out recall of a run.

    Args:
        depth: the K of R@K.
        share: the recall.
        chance: the chance level at this depth, where known.
        where: direction, ranking and, unless it is the final evaluation, the step.
    """

    depth: int
    share: float
    chance: float | None
    where: str


def tables(metrics: RetrievalMetrics) -> list[Table]:
    """Return one table per direction that has at least one recall."""
    found = [matched for name in metrics if (matched := _RECALL.fullmatch(name))]
    directions = [name for name in DIRECTIONS if any(matched["direction"] == name for matched in found)]
    depths = tuple(sorted({int(matched["depth"]) for matched in found}))
    return [_table(metrics, direction, depths) for direction in directions]


def chance_level(metrics: RetrievalMetrics, direction: str, depth: int) -> float | None:
    """Return the recall that a random ranking would have, where it was recorded."""
    return metrics.get(f"{direction}/chance@{depth}")


def best_recall(metrics: RetrievalMetrics, curves: Curves, depth: int = 10) -> BestRecall | None:
    """Return the best recall at a depth among the final evaluation and those during training, or None."""
    candidates = [*_final(metrics, depth), *_during_training(metrics, curves, depth)]
    return max(candidates, key=lambda candidate: candidate.share, default=None)


def _table(metrics: RetrievalMetrics, direction: str, depths: tuple[int, ...]) -> Table:
    rows = tuple(
        Row(
            name,
            tuple(metrics.get(f"{prefix}{direction}/recall@{depth}") for depth in depths),
            metrics.get(f"{prefix}{direction}/median_rank"),
        )
        for prefix, name in RANKINGS.items()
        if any(f"{prefix}{direction}/recall@{depth}" in metrics for depth in depths)
    )
    chances = tuple(chance_level(metrics, direction, depth) for depth in depths)
    return Table(DIRECTIONS[direction], depths, chances, rows)


def _final(metrics: RetrievalMetrics, depth: int) -> Iterator[BestRecall]:
    for direction, title in DIRECTIONS.items():
        for prefix, ranking in RANKINGS.items():
            share = metrics.get(f"{prefix}{direction}/recall@{depth}")
            if share is not None:
                chance = chance_level(metrics, direction, depth)
                yield BestRecall(depth, share, chance, f"{title.lower()}, {ranking.lower().split()[0]}")


def _during_training(metrics: RetrievalMetrics, curves: Curves, depth: int) -> Iterator[BestRecall]:
    last = {name.removeprefix("held_out/"): curve.values[-1] for name, curve in curves.items() if curve.values}
    for direction, title in DIRECTIONS.items():
        for prefix, ranking in RANKINGS.items():
            curve = finite(curves[name]) if (name := f"held_out/{prefix}{direction}/recall@{depth}") in curves else None
            if curve and curve.values:
                share, step = max(zip(curve.values, curve.steps, strict=True))
                where = f"{title.lower()}, {ranking.lower().split()[0]}, at step {step:,}"
                yield BestRecall(depth, share, chance_level({**last, **metrics}, direction, depth), where)
