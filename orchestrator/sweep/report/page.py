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
from orchestrator.sweep.report.axes import ColourRanks, colour_ranks, score_text, value_text
from orchestrator.sweep.report.charts import MOST_RUNGS, front_drawing, learning_drawing, response_drawing
from orchestrator.sweep.report.sweep_results import SweepResults
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
class PageInputs:
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


def render(results: SweepResults, shared: PageInputs) -> str:
    """Return the page; it needs no network and no JavaScript save for its copy button."""
    return _environment().get_template("sweep.html.j2").render(_context(results, shared))


@cache
def _environment() -> Environment:
    common = environment()
    own = PackageLoader("orchestrator.sweep.report")
    return common.overlay(loader=ChoiceLoader([own, common.loader] if common.loader else [own]))


def _context(results: SweepResults, shared: PageInputs) -> dict[str, Any]:
    sections = {id_: title for id_, title in SECTIONS.items() if id_ != "front" or len(results.metrics) > 1}
    best = results.best.first
    values = [tuple(score.mean for score in one.at(results.compared_at)) for one in results.compared]
    colours = [
        colour_ranks([one[number] for one in values], mode) if values else None for number, mode in enumerate(results.modes)
    ]
    return {
        **frame(sections, "sweep-sections"),
        "findings": results,
        "sweep": results.sweep.sweep,
        "file": results.file,
        "shared": shared,
        "tiles": tiles(results),
        "rows": rows(results),
        "keys": [one.key for one in results.sweep.parameters],
        "best": best,
        "best_values": _best_values(results),
        "best_trial": best_replica(best, results.modes[0]).name if best else "",
        "train": f"fuseray train {shlex.quote(shared.recipe_uri)}",
        "left_out": [(one.number, WHY[one.outcome]) for one in results.best.left_out],
        "failures": [(one, name, reason) for one in results.configurations for name, reason in one.reasons],
        "responses": list(_responses(results)),
        "maps": list(_maps(results, values, colours)),
        "legends": [_legend(one) if one else [] for one in colours],
        "parallel": _parallel(results, values, colours[0]),
        "learning": list(_learning(results)),
        "fronts": list(_fronts(results)),
        "least": LEAST,
        "widest": WIDEST,
        "rungs_drawn": 0 < len(results.rungs) <= MOST_RUNGS,
    }


def _best_values(results: SweepResults) -> list[tuple[str, str]]:
    best = results.best.first
    if best is None:
        return []
    return [
        (one.key, value_text(best.assignment[one.key]))
        for one in results.sweep.parameters
        if one.key in best.assignment
    ]


def _responses(results: SweepResults) -> Iterator[tuple[str, list[Drawing]]]:
    """Yield per objective its name and its curves."""
    for objective, metric in enumerate(results.metrics):
        found = [
            response_drawing(parameter, results, objective, f"response-{objective}-{at}")
            for at, parameter in enumerate(results.sweep.parameters)
        ]
        drawn = [one for one in found if one is not None]
        if drawn:
            yield metric, drawn


def _maps(
    results: SweepResults, values: list[tuple[float, ...]], colours: list[ColourRanks | None]
) -> Iterator[tuple[str, list[Legend], list[Drawing]]]:
    """Yield per objective its name, the legend and the maps."""
    best = results.best.first
    for objective, (metric, own) in enumerate(zip(results.metrics, colours, strict=True)):
        if own is None:
            continue
        ranking = [one.key for one in results.importances[objective]]
        tried = [(one, all_[objective]) for one, all_ in zip(results.compared, values, strict=True)]
        drawings = [
            map_drawing(pair, tried, own, metric, best.number if best else None, f"map-{objective}-{at}")
            for at, pair in enumerate(mapped_pairs(results.sweep.parameters, ranking))
        ]
        drawn = [one for one in drawings if one is not None]
        if drawn:
            yield metric, _legend(own), drawn


def _parallel(results: SweepResults, values: list[tuple[float, ...]], colours: ColourRanks | None) -> str:
    if colours is None:
        return ""
    best = results.best.first
    number = best.number if best else None
    return parallel_chart(results.sweep.parameters, results.compared, values, results.metrics, colours, number)


def _learning(results: SweepResults) -> Iterator[Drawing]:
    best = results.best.first
    name = best_replica(best, results.modes[0]).name if best else ""
    for objective, metric in enumerate(results.metrics):
        found = learning_drawing(results.trials, objective, metric, results.rungs, name, results.file.samples)
        if found:
            yield found


def _fronts(results: SweepResults) -> Iterator[Drawing]:
    if results.whole:
        for pair in combinations(range(len(results.metrics)), 2):
            yield front_drawing(results.whole, results.best.front, pair, results.metrics)


def _legend(colours: ColourRanks) -> list[Legend]:
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


def tiles(results: SweepResults) -> list[Tile]:
    """Return the headline figures."""
    return [*_best(results), *_trials(results), *_cost(results), *_time(results)]


def rows(results: SweepResults) -> list[Row]:
    """Return a row per configuration: whole ones from good to bad, then those that came less far."""
    order = list(OUTCOMES)
    ordered = sorted(
        results.configurations,
        key=lambda one: (
            order.index(one.outcome),
            -one.samples,
            tuple(-value for value in signs(one.means, results.modes)) if one.scores else (float("inf"),),
            one.number,
        ),
    )
    return [_row(results, one) for one in ordered]


def outcome_text(results: SweepResults, one: Configuration) -> str:
    """Say how a configuration ended."""
    if one.outcome == "open":
        return "running" if results.is_running else "interrupted"
    return OUTCOMES[one.outcome]


def cost_text(spent: Spent | None) -> str:
    """Write what something cost; without any price, the hours of machines."""
    if spent is None or not spent.node_seconds:
        return NOTHING
    if spent.unpriced_node_hours and not spent.usd:
        return f"{figure(spent.node_hours)} node-hours"
    return f"{spent.usd:,.2f} USD"


def _row(results: SweepResults, one: Configuration) -> Row:
    metrics = len(results.metrics)
    ended = Counter(record.status for record in one.replicas)["FINISHED"]
    return Row(
        number=one.number,
        best=one in results.best.front,
        values=tuple(
            value_text(one.assignment[key.key]) if key.key in one.assignment else NOTHING
            for key in results.sweep.parameters
        ),
        scores=_written(one.scores, metrics),
        compared=_written(one.at(results.compared_at) if one in results.compared else (), metrics),
        samples=count(one.samples) if one.samples else NOTHING,
        outcome=outcome_text(results, one),
        replicas=f"{ended} of {one.planned}",
        cost=cost_text(results.spent.get(one.number)),
    )


def _written(scores: tuple[Score, ...], metrics: int) -> tuple[str, ...]:
    return tuple(map(score_text, scores)) or (NOTHING,) * metrics


def _best(results: SweepResults) -> Iterator[Tile]:
    best = results.best.first
    if best is None:
        return
    over = f"over {len(best.replicas)} seeds, " if len(best.replicas) > 1 else ""
    for metric, mode, score in zip(results.metrics, results.modes, best.scores, strict=True):
        goal = "smallest" if mode == "min" else "largest"
        first = metric == results.metrics[0]
        said = f"the {goal} {metric}; {over}configuration {best.number}" if first else f"{metric} of the same"
        yield Tile("Best" if first else "With it", score_text(score), said)


def _trials(results: SweepResults) -> Iterator[Tile]:
    counts = Counter(STATUSES.get(one.status, "running") for one in results.trials)
    if not results.is_running and "running" in counts:
        counts["interrupted"] = counts.pop("running")
    said = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    yield Tile("Trials", f"{len(results.trials):,} of {results.file.trials:,}", said)


def _cost(results: SweepResults) -> Iterator[Tile]:
    spent = results.total
    if spent.node_seconds:
        unpriced = f", {figure(spent.unpriced_node_hours)} without a price" if spent.unpriced_node_hours else ""
        yield Tile("Cost", f"{spent.usd:,.2f} USD", f"{figure(spent.node_hours)} node-hours{unpriced}")


def _time(results: SweepResults) -> Iterator[Tile]:
    if results.total.seconds:
        samples = f"{count(results.file.samples)} samples in a whole trial"
        yield Tile("Wall time", duration(results.total.seconds), samples)
