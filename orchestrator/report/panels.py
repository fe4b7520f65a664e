"""Which logged metrics the page draws, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.report.charts import Style, curve_chart, finite, recall_chart
from orchestrator.report.model import Curve, Curves, RetrievalMetrics

LOSSES: Mapping[str, Style] = {
    "loss": Style(title="Total loss", unit="loss (nats)", noisy=True),
    "loss_itc": Style(title="Image-text contrastive (ITC)", unit="loss (nats)", noisy=True),
    "loss_itm": Style(title="Image-text matching (ITM)", unit="loss (nats)", noisy=True),
    "loss_mlm": Style(title="Masked language modelling (MLM)", unit="loss (nats)", noisy=True),
    "loss_adversarial": Style(title="Adversarial", unit="loss (nats)", noisy=True, colour="vermillion"),
    "loss_kl": Style(title="Adversarial consistency (KL)", unit="divergence (nats)", noisy=True, colour="vermillion"),
}
OPTIMISATION: Mapping[str, Style] = {
    "learning_rate": Style(title="Learning rate", unit="learning rate", from_zero=True),
    "gradient_norm": Style(title="Gradient norm", unit="Euclidean norm", noisy=True, from_zero=True),
    "temperature": Style(title="Contrastive temperature", unit="temperature"),
    "alpha": Style(
        title="Distillation weight \N{GREEK SMALL LETTER ALPHA}", unit="weight of the soft targets", from_zero=True
    ),
}
THROUGHPUT: Mapping[str, Style] = {
    "samples_per_s": Style(title="Throughput", unit="samples / s", noisy=True, from_zero=True, colour="green"),
    "data_wait_share": Style(
        title="Waiting for data",
        unit="share of the step (%)",
        noisy=True,
        from_zero=True,
        share=True,
        colour="vermillion",
    ),
}

_RECALL = re.compile(r"held_out/(?P<search>.+)/recall@(?P<depth>\d+)")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with its title and, where something must be said about it, a note."""

    title: str
    svg: str
    note: str = ""


def draw(curves: Curves, styles: Mapping[str, Style]) -> list[Drawing]:
    """Draw the curves that have a style and at least one finite value."""
    return [_drawing(name, curves[name], style) for name, style in styles.items() if _drawable(curves.get(name))]


def draw_recalls(curves: Curves) -> list[Drawing]:
    """Draw held-out recalls over training, one chart per direction and ranking."""
    searches: dict[str, dict[int, Curve]] = {}
    for search, depth, curve in _recalls(curves):
        searches.setdefault(search, {})[depth] = curve
    return [_recall_drawing(search, searches[search], curves) for search in sorted(searches, key=_search_order)]


def _drawing(name: str, curve: Curve, style: Style) -> Drawing:
    drawn = finite(curve)
    lost = len(curve.values) - len(drawn.values)
    note = f"{lost:,} of {len(curve.values):,} logged values are not finite and are left out." if lost else ""
    return Drawing(style.title, curve_chart(drawn, style, name.replace("_", "-")), note)


def _drawable(curve: Curve | None) -> bool:
    return curve is not None and bool(finite(curve).values)


def _recalls(curves: Curves) -> Iterator[tuple[str, int, Curve]]:
    for name, curve in curves.items():
        matched = _RECALL.fullmatch(name)
        if matched and _drawable(curve):
            yield matched["search"], int(matched["depth"]), finite(curve)


def _recall_drawing(search: str, by_depth: Mapping[int, Curve], curves: Curves) -> Drawing:
    deepest = max(by_depth)
    last = {name.removeprefix("held_out/"): curve.values[-1] for name, curve in curves.items() if curve.values}
    direction = search.removeprefix("reranked/")
    title = DIRECTIONS.get(direction, direction) + (", re-ranked" if search != direction else "")
    lines = {f"R@{depth}": by_depth[depth] for depth in sorted(by_depth, reverse=True)}
    prefix = "recall-" + re.sub(r"[^a-z0-9]+", "-", search)
    return Drawing(title, recall_chart(lines, chance_level(last, direction, deepest), prefix, title))


def _search_order(search: str) -> tuple[bool, int, str]:
    direction = search.removeprefix("reranked/")
    known = list(DIRECTIONS)
    return search != direction, known.index(direction) if direction in known else len(known), search


# Retrieval metrics, which arrive as a flat mapping, as tables and as one headline figure.


DIRECTIONS = {"text_to_image": "Text → image", "image_to_text": "Image → text"}
"""Direction as metrics name it, and as the page does."""

RANKINGS = {"": "Contrastive", "reranked/": "Re-ranked with ITM"}
"""Prefix of a ranking's metrics, and its name on the page."""

_RECALL_METRIC = re.compile(r"(?P<ranking>reranked/)?(?P<direction>[^/]+)/recall@(?P<depth>\d+)")


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
    found = [matched for name in metrics if (matched := _RECALL_METRIC.fullmatch(name))]
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
