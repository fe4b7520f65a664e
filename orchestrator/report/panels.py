"""What the page draws and tabulates of the metrics that a run reports: charts by panel, tables, the best of a kind.

Which metrics there are is declared by the workload (`ReportedMetrics`); those of the training loop itself are here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.charts import curve_chart, finite, lines_chart
from orchestrator.report.formats import figure, percent
from orchestrator.report.model import Curve, Curves
from workloads.contract import Evaluation, Metric, Panel, ReportedMetrics, Table, TableRow

HELD_OUT = "held_out/"
"""Before the names of metrics that were measured on held-out samples while training."""

HELD_OUT_METRICS = (Metric(name="skipped", title="Samples that cannot be used", goal="min"),)
"""What an evaluation of every workload reports."""

OPTIMISATION = Panel("Optimisation")
STEP_METRICS = (
    Metric(
        name="learning_rate",
        title="Learning rate",
        unit="learning rate",
        panel=OPTIMISATION,
        from_zero=True,
    ),
    Metric(
        name="gradient_norm",
        title="Gradient norm",
        unit="Euclidean norm",
        panel=OPTIMISATION,
        noisy=True,
        from_zero=True,
    ),
)
"""What the training loop reports of every workload."""

THROUGHPUT = (
    Metric(name="samples_per_s", title="Throughput", unit="samples / s", goal="max", noisy=True, from_zero=True),
    Metric(
        name="data_wait_share",
        title="Waiting for data",
        unit="share of the step (%)",
        share=True,
        goal="min",
        noisy=True,
        from_zero=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with its title and, where something must be said about it, a note."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class DrawnPanel:
    """A section of the page: a panel, whether it shows held-out samples, and its charts."""

    panel: Panel
    is_held_out: bool
    drawings: tuple[Drawing, ...]
    is_noisy: bool

    @property
    def id(self) -> str:
        """The id of the section."""
        return _slug(self.panel.title)


def draw_panels(curves: Curves, reported: ReportedMetrics) -> list[DrawnPanel]:
    """Draw every panel that the workload or the training loop names, those of held-out samples last."""
    workload = (*reported.steps, *reported.some_steps)
    evaluation = (*reported.evaluation, *reported.final_evaluation)
    measured = {name.removeprefix(HELD_OUT): curve for name, curve in curves.items() if name.startswith(HELD_OUT)}
    steps = [_panel(panel, False, (*STEP_METRICS, *workload), curves) for panel in _panels((*workload, *STEP_METRICS))]
    return steps + [_panel(panel, True, evaluation, measured) for panel in _panels(evaluation)]


def draw(curves: Curves, metrics: Sequence[Metric]) -> list[Drawing]:
    """Draw the metrics that have at least one finite value; those of equal title share a chart."""
    drawn = [metric for metric in metrics if (curve := curves.get(metric.name)) is not None and finite(curve).values]
    titles = dict.fromkeys(metric.title for metric in drawn)
    return [_drawing([metric for metric in drawn if metric.title == title], curves) for title in titles]


def _panels(metrics: Sequence[Metric]) -> list[Panel]:
    by_title: dict[str, Panel] = {}
    for metric in metrics:
        if metric.panel is not None:
            by_title.setdefault(metric.panel.title, metric.panel)
    return list(by_title.values())


def _panel(panel: Panel, is_held_out: bool, metrics: Sequence[Metric], curves: Curves) -> DrawnPanel:
    own = [metric for metric in metrics if metric.panel is not None and metric.panel.title == panel.title]
    is_noisy = any(metric.noisy for metric in own if metric.name in curves)
    return DrawnPanel(panel, is_held_out, tuple(draw(curves, own)), is_noisy)


def _drawing(metrics: Sequence[Metric], curves: Curves) -> Drawing:
    first = metrics[0]
    drawn = {metric.name: finite(curves[metric.name]) for metric in metrics}
    lost = sum(len(curves[name].values) - len(curve.values) for name, curve in drawn.items())
    logged = sum(len(curves[name].values) for name in drawn)
    note = f"{lost:,} of {logged:,} logged values are not finite and are left out." if lost else ""
    if len(metrics) == 1 and not first.chance:
        return Drawing(first.title, curve_chart(drawn[first.name], first, _slug(first.name)), note)
    lines = {metric.label or metric.name: drawn[metric.name] for metric in reversed(metrics)}
    chance = _last(curves.get(metrics[-1].chance))
    return Drawing(first.title, lines_chart(lines, chance, first, "lines-" + _slug(first.title)), note)


def _last(curve: Curve | None) -> float | None:
    return curve.values[-1] if curve is not None and curve.values else None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a table: as text, and how it compares with chance; empty where there is none."""

    text: str = ""
    chance_text: str = ""
    times_chance: float | None = None


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row of a table: its name and a cell per column."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class ShownTable:
    """A table of an evaluation with its values; `chances` is empty where no metric declares a chance level."""

    table: Table
    rows: tuple[ShownRow, ...]
    chances: tuple[str, ...]


def show_tables(evaluation: Evaluation, reported: ReportedMetrics) -> list[ShownTable]:
    """Return the tables of an evaluation; without any, one that lists its metrics, chance levels aside."""
    known = (*HELD_OUT_METRICS, *reported.evaluation, *reported.final_evaluation)
    declared = {metric.name: metric for metric in known}
    tables = evaluation.tables or _list_metrics(evaluation, declared)
    return [_shown(table, evaluation.metrics, declared) for table in tables]


def _list_metrics(evaluation: Evaluation, declared: Mapping[str, Metric]) -> Iterator[Table]:
    chances = {metric.chance for metric in declared.values()}
    names = [name for name in evaluation.metrics if name not in chances]
    if names:
        rows = tuple(TableRow(_full_title(declared.get(name), name), (name,)) for name in names)
        yield Table("Held-out samples", "Metric", ("Value",), rows)


def _full_title(metric: Metric | None, name: str) -> str:
    if metric is None:
        return name
    return f"{metric.title}, {metric.label}" if metric.label else metric.title


def _shown(table: Table, values: Mapping[str, float], declared: Mapping[str, Metric]) -> ShownTable:
    rows = tuple(
        ShownRow(row.name, tuple(_cell(values.get(name), declared.get(name), values) for name in row.metrics))
        for row in table.rows
    )
    by_column = [[row.cells[column].chance_text for row in rows] for column in range(len(table.columns))]
    chances = tuple(next(filter(None, texts), "") for texts in by_column)
    return ShownTable(table, rows, chances if any(chances) else ())


def _cell(value: float | None, metric: Metric | None, values: Mapping[str, float]) -> Cell:
    chance = values.get(metric.chance) if metric is not None else None
    chance_text = value_text(chance, metric) if chance is not None else ""
    if value is None:
        return Cell("", chance_text)
    return Cell(value_text(value, metric), chance_text, value / chance if chance else None)


def value_text(value: float, metric: Metric | None) -> str:
    """Write a metric's value: a share as a percentage, whole numbers as they are, others with three digits."""
    if metric is not None and metric.share:
        return percent(value)
    return f"{value:,g}" if float(2 * value).is_integer() else figure(value)


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of those held-out metrics that stand at the top of the page under one label.

    Args:
        metric: the metric.
        value: its best value.
        chance: what guessing reaches, where known.
        step: where it was measured; None for the final evaluation.
    """

    metric: Metric
    value: float
    chance: float | None
    step: int | None


def best_evaluations(curves: Curves, evaluation: Evaluation | None, reported: ReportedMetrics) -> list[Best]:
    """Return, per label, the best value among the final evaluation and those during training."""
    metrics = [metric for metric in (*reported.evaluation, *reported.final_evaluation) if metric.headline]
    final = evaluation.metrics if evaluation is not None else {}
    best = []
    for label in dict.fromkeys(metric.label for metric in metrics):
        alike = [metric for metric in metrics if metric.label == label]
        candidates = [*_final(final, alike), *_during_training(curves, final, alike)]
        if candidates:
            sign = -1 if alike[0].goal == "min" else 1
            best.append(max(candidates, key=lambda candidate: sign * candidate.value))
    return best


def _final(values: Mapping[str, float], metrics: Sequence[Metric]) -> Iterator[Best]:
    for metric in metrics:
        if metric.name in values:
            yield Best(metric, values[metric.name], values.get(metric.chance), None)


def _during_training(curves: Curves, final: Mapping[str, float], metrics: Sequence[Metric]) -> Iterator[Best]:
    for metric in metrics:
        curve = finite(curves[name]) if (name := HELD_OUT + metric.name) in curves else None
        if curve and curve.values:
            best = min if metric.goal == "min" else max
            value, step = best(zip(curve.values, curve.steps, strict=True))
            chance = final.get(metric.chance, _last(curves.get(HELD_OUT + metric.chance)))
            yield Best(metric, value, chance, step)
