"""What a workload reports: metrics with titles, units and panels; an evaluation with its tables and galleries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from workloads.contract.samples import BadSample


@dataclass(frozen=True, slots=True)
class Panel:
    """A section of a run's report that draws metrics: a heading and, where needed, a sentence."""

    title: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric that a workload reports, and how the terminal, the report and a sweep show it.

    Args:
        name: as `micro_step` or an evaluation returns it.
        title: what people call it, the heading of its chart; metrics of equal title share one.
        unit: of its values as people see them, for example "loss (nats)" or "recall (%)".
        share: whether the values are shares in [0, 1], which people see as percentages.
        goal: which way is good, "min" or "max"; None when neither is.
        panel: where the report draws it; None for nowhere.
        label: a short name, for the terminal and for its line in a shared chart.
        on_terminal: whether it stands on the terminal's progress line.
        headline: whether it stands at the top of the report; of several evaluation metrics, the best one does.
        chance: name of the metric, reported next to this one, that says what guessing would reach.
        noisy: whether single values say little, so that a chart needs a smoothed line.
        from_zero: whether the axis of its chart starts at zero.
    """

    name: str
    title: str
    unit: str = ""
    share: bool = False
    goal: Literal["min", "max"] | None = None
    panel: Panel | None = None
    label: str = ""
    on_terminal: bool = False
    headline: bool = False
    chance: str = ""
    noisy: bool = False
    from_zero: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedMetrics:
    """The metrics that a run reports, known before anything is built.

    Args:
        steps: that `micro_step` reports in every step.
        some_steps: that it reports in a part of the run only.
        evaluation: of an evaluation while training, with `EvaluationOptions.while_training`.
        final_evaluation: what an evaluation reports beyond these after the training.
        step_hooks: what `begin_step` and `end_step` do, as the report names the time that they take.
    """

    steps: tuple[Metric, ...]
    some_steps: tuple[Metric, ...] = ()
    evaluation: tuple[Metric, ...] = ()
    final_evaluation: tuple[Metric, ...] = ()
    step_hooks: str = "begin and end of steps"


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table: its name, and per column the name of a metric; one that was not measured leaves a gap."""

    name: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Metrics of an evaluation as a table. A row with the chance levels follows where the metrics declare them.

    Args:
        title: what the table is about.
        row_heading: what the names of the rows are, for example "Ranking".
        columns: their headings.
        rows: one metric per column.
        text: what the reader should know.
    """

    title: str
    row_heading: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """The image of an evaluated sample.

    Args:
        index: row of the sample among those evaluated.
        text: written beneath it.
        score: what the model gave it; None when it was not scored.
        correct: whether it is a right answer; None when that is not asked.
        map_HW: where the model looks, in [0, 1], laid over the image; None for the image alone. Not compared.
    """

    index: int
    text: str = ""
    score: float | None = None
    correct: bool | None = None
    map_HW: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """A text, for example a query, and the pictures that belong to it."""

    text: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Examples of what a model does: a section of the report with a heading, a text and rows of pictures."""

    title: str
    text: str
    rows: tuple[GalleryRow, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of measuring a model on held-out samples.

    Args:
        metrics: values by name, shares in [0, 1].
        tables: how the metrics are laid out for people; without any, all metrics are listed.
        galleries: examples.
        files: result files by name, for example in the form that an official server takes; kept with the evaluation.
        unusable: why samples could not be used, by their row among those evaluated; a metric `skipped` counts them.
            Whoever runs an evaluator adds both.
    """

    metrics: Mapping[str, float]
    tables: tuple[Table, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    unusable: Mapping[int, BadSample] = field(default_factory=dict)
