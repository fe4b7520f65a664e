"""Which logged metrics the page draws, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.report.charts import Style, curve_chart, recall_chart
from orchestrator.report.model import Curve, Curves
from orchestrator.report.retrieval import DIRECTIONS, chance_level
from orchestrator.report.series import finite

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
