"""A sweep's report as one self-contained HTML page, in the look of a run's."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader

from orchestrator.report.html import environment, frame
from orchestrator.report.panels import Drawing
from orchestrator.sweep.reporting.best import WHY, best_replica
from orchestrator.sweep.reporting.findings import Findings
from orchestrator.sweep.reporting.fronts import front_drawing
from orchestrator.sweep.reporting.grades import Grades, grades
from orchestrator.sweep.reporting.importance import LEAST
from orchestrator.sweep.reporting.learning import MOST_RUNGS, learning_drawing
from orchestrator.sweep.reporting.maps import WIDEST, map_drawing, mapped_pairs
from orchestrator.sweep.reporting.parallel import parallel_chart
from orchestrator.sweep.reporting.responses import response_drawing
from orchestrator.sweep.reporting.tables import rows, tiles
from orchestrator.sweep.reporting.words import value_text
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
    own = PackageLoader("orchestrator.sweep.reporting")
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
            for at, pair in enumerate(mapped_pairs(findings.sweep.parameters, ranking))
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
