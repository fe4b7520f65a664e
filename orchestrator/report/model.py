"""What a report says about a run: plain values, no storage, no tracking server, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.stream.unusable import ReasonCount
from workloads.contract import Evaluation, ReportedMetrics


class Status(StrEnum):
    """How a run stands, in the tracking server's words."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One saved state of the run.

    Args:
        step: steps done when it was written.
        location: URI that `--resume` and `evaluate` read.
        size_bytes: size of all its files, where known.
    """

    step: int
    location: str
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The run's identity and where its results are.

    Args:
        name: its name.
        folder: URI of its folder, for commands; empty for what goes by its name.
        endpoint: address of the S3-compatible server that the folder is on.
        status: how it ended, or that it has not.
        created: start time, written for people.
        finished: end time, written for people; empty while it runs.
        message: why it failed or stopped, in one line.
        recipe: the recipe file, as the command line takes it.
        checkpoints: oldest first.
        mlflow_run_id: the run's id in MLflow; empty when it was not tracked.
        mlflow_command: the command that opens the MLflow store, or the address of its server.
    """

    name: str
    status: Status
    created: str
    folder: str = ""
    endpoint: str | None = None
    finished: str = ""
    message: str = ""
    recipe: str = "RECIPE"
    checkpoints: tuple[Checkpoint, ...] = ()
    mlflow_run_id: str = ""
    mlflow_command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The run's size and pace; a number that is not known is None.

    Args:
        steps: steps done.
        planned_steps: steps in the recipe.
        samples: samples consumed.
        samples_per_s: mean training throughput, samples per second.
        wall_time_s: from start to end, seconds.
        parameters: trained parameters.
        usd: what its machines cost, as far as their prices are known.
        node_hours: hours of machines.
        unpriced_node_hours: hours of machines without a known price.
    """

    steps: int | None = None
    planned_steps: int | None = None
    samples: int | None = None
    samples_per_s: float | None = None
    wall_time_s: float | None = None
    parameters: int | None = None
    usd: float | None = None
    node_hours: float | None = None
    unpriced_node_hours: float = 0.0


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric over time.

    Args:
        steps: training steps, ascending.
        values: one per step; not necessarily finite.

    Raises:
        ValueError: when the two differ in length.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ValueError(f"a curve needs one value per step, got {len(self.values)} for {len(self.steps)} steps")


Curves = Mapping[str, Curve]
"""Metric name, as logged, to its curve; metrics of evaluations begin with `held_out/`."""

TimeShares = Mapping[str, float]
"""Part of the run (for example "data wait") to seconds; shown in the order given."""

NOTHING_REPORTED = ReportedMetrics(steps=())


@dataclass(frozen=True, slots=True)
class EvaluatedCheckpoint:
    """An evaluation of a checkpoint, with the pictures that its galleries show.

    Args:
        evaluation: metrics, tables and galleries, as the workload filled them.
        images: encoded image files (PNG, JPEG or WebP) by the rows that the galleries name.
        unusable: held-out samples that could not be used, by reason.
        samples: held-out samples that were looked at, the unusable ones included; None when it was not noted.
    """

    evaluation: Evaluation
    images: Mapping[int, bytes]
    unusable: tuple[ReasonCount, ...] = ()
    samples: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the page shows; what is empty or None is reported as missing.

    Args:
        run: identity, status and locations.
        headline: size and pace.
        curves: logged metrics.
        time: where the wall time went.
        metrics: what the workload reports, and how it is shown.
        evaluated: the newest evaluation; None before there is one.
        skipped: skipped samples by reason; None when they were not counted, empty when there were none.
        held_out_unusable: held-out samples that the newest evaluation while training could not use, by reason.
        recipe_yaml: the resolved recipe.
        machine: named facts about hardware and software.
    """

    run: Run
    headline: Headline = field(default_factory=Headline)
    curves: Curves = field(default_factory=dict)
    time: TimeShares = field(default_factory=dict)
    metrics: ReportedMetrics = NOTHING_REPORTED
    evaluated: EvaluatedCheckpoint | None = None
    skipped: tuple[ReasonCount, ...] | None = None
    held_out_unusable: tuple[ReasonCount, ...] = ()
    recipe_yaml: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
