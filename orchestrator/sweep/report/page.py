"""Renders a sweep's report as one self-contained HTML page, with a run report's templates and style."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader

from orchestrator.config.commands import download_command, train_command
from orchestrator.report.formats import count, duration, figure
from orchestrator.report.html import environment, frame
from orchestrator.report.page import Tile
from orchestrator.report.panels import Drawing
from orchestrator.sweep.report.axes import ColourRanks, cell_text, colour_ranks, score_text
from orchestrator.sweep.report.charts import MOST_RUNGS, front_drawing, learning_drawing, response_drawing
from orchestrator.sweep.report.maps import LEAST, WIDEST, map_drawing, mapped_pairs, parallel_chart
from orchestrator.sweep.report.sweep_results import SweepResults
from orchestrator.sweep.results import NOT_CONSIDERED, Configuration, Score, best_replica, signs
from orchestrator.track.cost import RunCost
from orchestrator.track.payloads import RegisteredVersion

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
    """An entry of a legend: a colour's name in the palette, and the values that it stands for."""

    colour: str
    text: str


@dataclass(frozen=True, slots=True)
class PageInputs:
    """What the page shows besides the sweep's results.

    Args:
        recipe: the best configuration's, as YAML; empty when there is none.
        recipe_uri: where it is.
        spec: the sweep's YAML.
        registered: the best trial's model in MLflow's registry; None when it is not registered.
        unsent: what could not be sent to MLflow, and why.
    """

    recipe: str
    recipe_uri: str
    spec: str
    registered: RegisteredVersion | None
    unsent: tuple[str, ...]


def render(results: SweepResults, inputs: PageInputs) -> str:
    """Return the page; it needs no network, and JavaScript only for its copy button."""
    return _environment().get_template("sweep.html.j2").render(_context(results, inputs))


@cache
def _environment() -> Environment:
    common = environment()
    own = PackageLoader("orchestrator.sweep.report")
    return common.overlay(loader=ChoiceLoader([own, common.loader] if common.loader else [own]))


def _context(results: SweepResults, inputs: PageInputs) -> dict[str, Any]:
    sections = {id_: title for id_, title in SECTIONS.items() if id_ != "front" or len(results.metrics) > 1}
    best = results.best.first
    values = [tuple(score.mean for score in each.at(results.compared_at)) for each in results.compared]
    colours = [
        colour_ranks([means[number] for means in values], mode) if values else None
        for number, mode in enumerate(results.modes)
    ]
    return {
        **frame(sections, "sweep-sections"),
        "results": results,
        "sweep": results.sweep.sweep,
        "file": results.file,
        "inputs": inputs,
        "tiles": tiles(results),
        "rows": rows(results),
        "keys": [parameter.key for parameter in results.sweep.parameters],
        "best": best,
        "best_values": _best_values(results),
        "best_trial": best_replica(best, results.modes[0]).name if best else "",
        "train": train_command(inputs.recipe_uri),
        "download": download_command(inputs.registered.uri) if inputs.registered else "",
        "left_out": [(each.number, NOT_CONSIDERED[each.outcome]) for each in results.best.left_out],
        "failures": [(each, name, reason) for each in results.configurations for name, reason in each.reasons],
        "responses": list(_responses(results)),
        "maps": list(_maps(results, values, colours)),
        "legends": [_legend(ranks) if ranks else [] for ranks in colours],
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
        (parameter.key, cell_text(best.assignment[parameter.key]))
        for parameter in results.sweep.parameters
        if parameter.key in best.assignment
    ]


def _responses(results: SweepResults) -> Iterator[tuple[str, list[Drawing]]]:
    """Yield each objective's name and response curves."""
    for objective, metric in enumerate(results.metrics):
        drawings = [
            response_drawing(parameter, results, objective, f"response-{objective}-{at}")
            for at, parameter in enumerate(results.sweep.parameters)
        ]
        drawn = [drawing for drawing in drawings if drawing is not None]
        if drawn:
            yield metric, drawn


def _maps(
    results: SweepResults, values: list[tuple[float, ...]], colours: list[ColourRanks | None]
) -> Iterator[tuple[str, list[Legend], list[Drawing]]]:
    """Yield each objective's name, legend and maps."""
    best = results.best.first
    for objective, (metric, own) in enumerate(zip(results.metrics, colours, strict=True)):
        if own is None:
            continue
        ranking = [importance.key for importance in results.importances[objective]]
        tried = [(each, means[objective]) for each, means in zip(results.compared, values, strict=True)]
        drawings = [
            map_drawing(pair, tried, own, metric, best.number if best else None, f"map-{objective}-{at}")
            for at, pair in enumerate(mapped_pairs(results.sweep.parameters, ranking, results.related_keys))
        ]
        drawn = [drawing for drawing in drawings if drawing is not None]
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
        drawing = learning_drawing(results.trials, objective, metric, results.rungs, name, results.file.samples)
        if drawing:
            yield drawing


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


OUTCOMES = {
    "whole": "trained to the end",
    "early": "stopped early",
    "incomplete": "incomplete",
    "open": "not over",
    "failed": "failed",
}
STATUSES = {"FINISHED": "finished", "STOPPED": "stopped early", "FAILED": "failed", "PAUSED": "paused"}
MISSING = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration in the table, as text."""

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
    """Return the headline tiles."""
    return [*_best(results), *_trials(results), *_cost(results), *_time(results)]


def rows(results: SweepResults) -> list[Row]:
    """Return a row per configuration: whole ones from best to worst, then those that saw fewer samples."""
    order = list(OUTCOMES)
    ordered = sorted(
        results.configurations,
        key=lambda each: (
            order.index(each.outcome),
            -each.samples,
            tuple(-value for value in signs(each.means, results.modes)) if each.scores else (float("inf"),),
            each.number,
        ),
    )
    return [_row(results, each) for each in ordered]


def outcome_text(results: SweepResults, configuration: Configuration) -> str:
    """Return how a configuration ended."""
    if configuration.outcome == "open":
        return "running" if results.is_running else "interrupted"
    return OUTCOMES[configuration.outcome]


def cost_text(spent: RunCost | None) -> str:
    """Return a cost in dollars; without any price, in node-hours."""
    if spent is None or not spent.node_seconds:
        return MISSING
    if spent.unpriced_node_hours and not spent.usd:
        return f"{figure(spent.node_hours)} node-hours"
    return f"{spent.usd:,.2f} USD"


def _row(results: SweepResults, configuration: Configuration) -> Row:
    metrics, assignment = len(results.metrics), configuration.assignment
    finished = Counter(record.status for record in configuration.replicas)["FINISHED"]
    compared = configuration.at(results.compared_at) if configuration in results.compared else ()
    return Row(
        number=configuration.number,
        best=configuration in results.best.front,
        values=tuple(
            cell_text(assignment[parameter.key]) if parameter.key in assignment else MISSING
            for parameter in results.sweep.parameters
        ),
        scores=_score_texts(configuration.scores, metrics),
        compared=_score_texts(compared, metrics),
        samples=count(configuration.samples) if configuration.samples else MISSING,
        outcome=outcome_text(results, configuration),
        replicas=f"{finished} of {configuration.planned}",
        cost=cost_text(results.spent.get(configuration.number)),
    )


def _score_texts(scores: tuple[Score, ...], metrics: int) -> tuple[str, ...]:
    return tuple(map(score_text, scores)) or (MISSING,) * metrics


def _best(results: SweepResults) -> Iterator[Tile]:
    best = results.best.first
    if best is None:
        return
    over = f"over {len(best.replicas)} seeds, " if len(best.replicas) > 1 else ""
    for metric, mode, score in zip(results.metrics, results.modes, best.scores, strict=True):
        goal = "smallest" if mode == "min" else "largest"
        first = metric == results.metrics[0]
        note = f"the {goal} {metric}; {over}configuration {best.number}" if first else f"{metric} of the same"
        yield Tile("Best" if first else "With it", score_text(score), note)


def _trials(results: SweepResults) -> Iterator[Tile]:
    counts = Counter(STATUSES.get(trial.status, "running") for trial in results.trials)
    if not results.is_running and "running" in counts:
        counts["interrupted"] = counts.pop("running")
    note = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    yield Tile("Trials", f"{len(results.trials):,} of {results.file.trials:,}", note)


def _cost(results: SweepResults) -> Iterator[Tile]:
    spent = results.total
    if spent.node_seconds:
        unpriced = f", {figure(spent.unpriced_node_hours)} without a price" if spent.unpriced_node_hours else ""
        yield Tile("Cost", f"{spent.usd:,.2f} USD", f"{figure(spent.node_hours)} node-hours{unpriced}")


def _time(results: SweepResults) -> Iterator[Tile]:
    if results.total.seconds:
        samples = f"{count(results.file.samples)} samples in a whole trial"
        yield Tile("Wall time", duration(results.total.seconds), samples)
