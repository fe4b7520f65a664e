"""A sweep's report as one self-contained HTML page, in the look of a run's."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader

from orchestrator.report.formats import count, duration, figure
from orchestrator.report.html import environment, frame
from orchestrator.report.page import Tile
from orchestrator.report.panels import Drawing
from orchestrator.sweep.report.axes import Grades, grades, score_text, value_text
from orchestrator.sweep.report.charts import MOST_RUNGS, front_drawing, learning_drawing, response_drawing
from orchestrator.sweep.report.gather import Findings
from orchestrator.sweep.report.maps import LEAST, WIDEST, map_drawing, mapped_pairs, parallel_chart
from orchestrator.sweep.results import WHY, Configuration, Score, best_replica, signs
from orchestrator.track.cost import Spent
from orchestrator.track.payloads import Registered

SECTIONS = {
    "best": "The best configuration",
    "front": "Trade-off",
    "responses": "Response curves",
    "maps": "Maps of two keys",
    "parallel": "Parallel coordinates",
    "importance": "Importance",
    "learning": "Learning curves",
    "configurations": "All configurations",
    "failures": "Failed trials",
    "sweep": "The sweep",
}
"""Id and title of each section, in the page's order; `templates/sweep-sections/ID.html.j2` holds its body."""


@dataclass(frozen=True, slots=True)
class Legend:
    """A colour's name in the palette, and the values that it stands for."""

    colour: str
    text: str


@dataclass(frozen=True, slots=True)
class Shared:
    """What the page says beyond the findings.

    Args:
        recipe: the best configuration's, as YAML; empty when there is none.
        recipe_uri: where it is.
        spec: the sweep's YAML.
        registered: the best trial's model in MLflow; None when it is not there.
        unsent: what is not in MLflow, and why.
    """

    recipe: str
    recipe_uri: str
    spec: str
    registered: Registered | None
    unsent: tuple[str, ...]


def render(findings: Findings, shared: Shared) -> str:
    """Return the page; it needs no network and no JavaScript save for its copy button."""
    return _environment().get_template("sweep.html.j2").render(_context(findings, shared))


@cache
def _environment() -> Environment:
    common = environment()
    own = PackageLoader("orchestrator.sweep.report")
    return common.overlay(loader=ChoiceLoader([own, common.loader] if common.loader else [own]))


def _context(findings: Findings, shared: Shared) -> dict[str, Any]:
    sections = {id_: title for id_, title in SECTIONS.items() if id_ != "front" or len(findings.metrics) > 1}
    best = findings.best.first
    values = [tuple(score.mean for score in one.at(findings.compared_at)) for one in findings.compared]
    colours = [
        grades([one[number] for one in values], mode) if values else None for number, mode in enumerate(findings.modes)
    ]
    return {
        **frame(sections, "sweep-sections"),
        "findings": findings,
        "sweep": findings.sweep.sweep,
        "file": findings.file,
        "shared": shared,
        "tiles": tiles(findings),
        "rows": rows(findings),
        "keys": [one.key for one in findings.sweep.parameters],
        "best": best,
        "best_values": _best_values(findings),
        "best_trial": best_replica(best, findings.modes[0]).name if best else "",
        "train": f"fuseray train {shlex.quote(shared.recipe_uri)}",
        "left_out": [(one.number, WHY[one.outcome]) for one in findings.best.left_out],
        "failures": [(one, name, reason) for one in findings.configurations for name, reason in one.reasons],
        "responses": list(_responses(findings)),
        "maps": list(_maps(findings, values, colours)),
        "legends": [_legend(one) if one else [] for one in colours],
        "parallel": _parallel(findings, values, colours[0]),
        "learning": list(_learning(findings)),
        "fronts": list(_fronts(findings)),
        "least": LEAST,
        "widest": WIDEST,
        "rungs_drawn": 0 < len(findings.rungs) <= MOST_RUNGS,
    }


def _best_values(findings: Findings) -> list[tuple[str, str]]:
    best = findings.best.first
    if best is None:
        return []
    return [
        (one.key, value_text(best.assignment[one.key]))
        for one in findings.sweep.parameters
        if one.key in best.assignment
    ]


def _responses(findings: Findings) -> Iterator[tuple[str, list[Drawing]]]:
    """Yield per objective its name and its curves."""
    for objective, metric in enumerate(findings.metrics):
        found = [
            response_drawing(parameter, findings, objective, f"response-{objective}-{at}")
            for at, parameter in enumerate(findings.sweep.parameters)
        ]
        drawn = [one for one in found if one is not None]
        if drawn:
            yield metric, drawn


def _maps(
    findings: Findings, values: list[tuple[float, ...]], colours: list[Grades | None]
) -> Iterator[tuple[str, list[Legend], list[Drawing]]]:
    """Yield per objective its name, the legend and the maps."""
    best = findings.best.first
    for objective, (metric, own) in enumerate(zip(findings.metrics, colours, strict=True)):
        if own is None:
            continue
        ranking = [one.key for one in findings.importances[objective]]
        tried = [(one, all_[objective]) for one, all_ in zip(findings.compared, values, strict=True)]
        drawings = [
            map_drawing(pair, tried, own, metric, best.number if best else None, f"map-{objective}-{at}")
            for at, pair in enumerate(mapped_pairs(findings.sweep.parameters, ranking, findings.related_keys))
        ]
        drawn = [one for one in drawings if one is not None]
        if drawn:
            yield metric, _legend(own), drawn


def _parallel(findings: Findings, values: list[tuple[float, ...]], colours: Grades | None) -> str:
    if colours is None:
        return ""
    best = findings.best.first
    number = best.number if best else None
    return parallel_chart(findings.sweep.parameters, findings.compared, values, findings.metrics, colours, number)


def _learning(findings: Findings) -> Iterator[Drawing]:
    best = findings.best.first
    name = best_replica(best, findings.modes[0]).name if best else ""
    for objective, metric in enumerate(findings.metrics):
        found = learning_drawing(findings.trials, objective, metric, findings.rungs, name, findings.file.samples)
        if found:
            yield found


def _fronts(findings: Findings) -> Iterator[Drawing]:
    if findings.whole:
        for pair in combinations(range(len(findings.metrics)), 2):
            yield front_drawing(findings.whole, findings.best.front, pair, findings.metrics)


def _legend(colours: Grades) -> list[Legend]:
    edges = [f"{edge:.4g}" for edge in colours.edges]
    return [
        Legend(colour, low if low == high else f"{low} to {high}")
        for colour, low, high in zip(colours.colours, edges[:-1], edges[1:], strict=True)
    ]


# The rows of the page's tables and its headline figures.


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
