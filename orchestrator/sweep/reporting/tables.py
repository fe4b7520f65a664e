"""The rows of the page's tables and its headline figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.report.formats import count, duration, figure
from orchestrator.report.page import Tile
from orchestrator.sweep.ranking import signs
from orchestrator.sweep.reporting.configurations import Configuration, Score
from orchestrator.sweep.reporting.findings import Findings
from orchestrator.sweep.reporting.words import score_text, value_text
from orchestrator.track.cost import Spent

OUTCOMES = {
    "whole": "trained to the end",
    "early": "stopped early",
    "incomplete": "incomplete",
    "open": "not over",
    "failed": "failed",
}
STATUSES = {"FINISHED": "finished", "STOPPED": "stopped early", "FAILED": "failed", "PAUSED": "paused"}
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration in the table, all as written."""

    number: int
    best: bool
    values: tuple[str, ...]
    scores: tuple[str, ...]
    compared: tuple[str, ...]
    samples: str
    outcome: str
    replicas: str
    cost: str


def tiles(findings: Findings) -> list[Tile]:
    """Return the headline figures."""
    return [*_best(findings), *_trials(findings), *_cost(findings), *_time(findings)]


def rows(findings: Findings) -> list[Row]:
    """Return a row per configuration: whole ones from good to bad, then those that came less far."""
    order = list(OUTCOMES)
    ordered = sorted(
        findings.configurations,
        key=lambda one: (
            order.index(one.outcome),
            -one.samples,
            tuple(-value for value in signs(one.means, findings.modes)) if one.scores else (float("inf"),),
            one.number,
        ),
    )
    return [_row(findings, one) for one in ordered]


def outcome_text(findings: Findings, one: Configuration) -> str:
    """Say how a configuration ended."""
    if one.outcome == "open":
        return "running" if findings.is_running else "interrupted"
    return OUTCOMES[one.outcome]


def cost_text(spent: Spent | None) -> str:
    """Write what something cost; without any price, the hours of machines."""
    if spent is None or not spent.node_seconds:
        return NOTHING
    if spent.unpriced_node_hours and not spent.usd:
        return f"{figure(spent.node_hours)} node-hours"
    return f"{spent.usd:,.2f} USD"


def _row(findings: Findings, one: Configuration) -> Row:
    metrics = len(findings.metrics)
    ended = Counter(record.status for record in one.replicas)["FINISHED"]
    return Row(
        number=one.number,
        best=one in findings.best.front,
        values=tuple(
            value_text(one.assignment[key.key]) if key.key in one.assignment else NOTHING
            for key in findings.sweep.parameters
        ),
        scores=_written(one.scores, metrics),
        compared=_written(one.at(findings.compared_at) if one in findings.compared else (), metrics),
        samples=count(one.samples) if one.samples else NOTHING,
        outcome=outcome_text(findings, one),
        replicas=f"{ended} of {one.planned}",
        cost=cost_text(findings.spent.get(one.number)),
    )


def _written(scores: tuple[Score, ...], metrics: int) -> tuple[str, ...]:
    return tuple(map(score_text, scores)) or (NOTHING,) * metrics


def _best(findings: Findings) -> Iterator[Tile]:
    best = findings.best.first
    if best is None:
        return
    over = f"over {len(best.replicas)} seeds, " if len(best.replicas) > 1 else ""
    for metric, mode, score in zip(findings.metrics, findings.modes, best.scores, strict=True):
        goal = "smallest" if mode == "min" else "largest"
        first = metric == findings.metrics[0]
        said = f"the {goal} {metric}; {over}configuration {best.number}" if first else f"{metric} of the same"
        yield Tile("Best" if first else "With it", score_text(score), said)


def _trials(findings: Findings) -> Iterator[Tile]:
    counts = Counter(STATUSES.get(one.status, "running") for one in findings.trials)
    if not findings.is_running and "running" in counts:
        counts["interrupted"] = counts.pop("running")
    said = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    yield Tile("Trials", f"{len(findings.trials):,} of {findings.file.trials:,}", said)


def _cost(findings: Findings) -> Iterator[Tile]:
    spent = findings.total
    if spent.node_seconds:
        unpriced = f", {figure(spent.unpriced_node_hours)} without a price" if spent.unpriced_node_hours else ""
        yield Tile("Cost", f"{spent.usd:,.2f} USD", f"{figure(spent.node_hours)} node-hours{unpriced}")


def _time(findings: Findings) -> Iterator[Tile]:
    if findings.total.seconds:
        samples = f"{count(findings.file.samples)} samples in a whole trial"
        yield Tile("Wall time", duration(findings.total.seconds), samples)
