"""Sends the metrics of steps so that each of them is in MLflow once, whatever happens on the way.

One metric decides whether a step is there: `samples`, which every step has, whatever its workload. It is the last of
its step, a step is never divided between two requests if it fits into one, and MLflow's databases take the metrics of
a request whole or not at all; so where it is, all others of the step are. Two cases remain. An answer may be lost, so
that nobody knows whether the request arrived: MLflow's databases take the same point (value, step and time) once, and
for the stores that do not (files), what is there is read back before anything is sent again. And a store of files may
have taken a part of a request when its server died: all steps up to one, and a part of that one. So the first request
after a start is checked as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from mlflow.entities import Metric

from orchestrator.track.apart import Refusals, send_apart
from orchestrator.track.connection import Connection
from orchestrator.track.metric_log import StepLine
from orchestrator.track.step_ranges import StepRanges

STEP_METRIC = "samples"
MAX_METRICS_PER_CALL = 900
"""MLflow takes 1,000."""


@dataclass(frozen=True, slots=True)
class Points:
    """What MLflow gets of a step.

    Args:
        line: what was measured.
        values: the metrics that follow from it, by the names that training uses; `samples` comes from the line.
    """

    line: StepLine
    values: Mapping[str, float]


class StepSender:
    """Sends steps that MLflow lacks.

    Args:
        connection: the run.
        refusals: remembers metrics that MLflow refuses.
    """

    def __init__(self, connection: Connection, refusals: Refusals) -> None:
        self._connection = connection
        self._refusals = refusals
        self._present: StepRanges | None = None
        self._sure = False
        self.sent = 0

    def present(self) -> StepRanges:
        """Return the steps that MLflow has; asked for once.

        Raises:
            Exception: what the client raises when MLflow is away.
        """
        if self._present is None:
            history = self._connection.client.get_metric_history(self._connection.run_id, STEP_METRIC)
            self._present = StepRanges(point.step for point in history)
        return self._present

    def send(self, batch: Sequence[Points]) -> None:
        """Send the steps of a batch that MLflow lacks; may be called again with the same batch after it raised.

        Raises:
            Exception: what the client raises when MLflow is away.
        """
        present = self.present()
        new = {points.line.step: points for points in batch if points.line.step not in present}
        metrics = [metric for points in new.values() for metric in _metrics(points)]
        if not self._sure:
            metrics = self._lacking(metrics)
        self._sure = False
        for part in _parts(metrics):
            self._send_part(part)
        self._sure = True
        for step in new:
            present.add(step)
        self.sent += len(new)

    def _send_part(self, metrics: Sequence[Metric]) -> None:
        groups: dict[str, list[Metric]] = defaultdict(list)
        for metric in metrics:
            groups[metric.key].append(metric)
        kept = {name: group for name, group in groups.items() if not self._refusals.leave_out(name, len(group))}

        def send(some: list[Metric]) -> None:
            in_order = sorted(some, key=lambda metric: (metric.step, metric.key == STEP_METRIC))
            self._connection.client.log_batch(self._connection.run_id, metrics=in_order)

        send_apart(kept, send, self._refusals, "metrics")

    def _lacking(self, metrics: Sequence[Metric]) -> list[Metric]:
        """Return the metrics that MLflow lacks; only histories that could hold one of them are read."""
        if not metrics:
            return []
        client, run_id = self._connection.client, self._connection.run_id
        newest = {metric.key: metric.step for metric in client.get_run(run_id).data.to_proto().metrics}
        first: dict[str, int] = {}
        for metric in metrics:
            first[metric.key] = min(metric.step, first.get(metric.key, metric.step))
        there = {
            (name, point.step)
            for name, step in first.items()
            if newest.get(name, -1) >= step
            for point in client.get_metric_history(run_id, name)
        }
        return [metric for metric in metrics if (metric.key, metric.step) not in there]


def in_batches(steps: Iterable[Points]) -> Iterator[list[Points]]:
    """Yield whole steps with together at most `MAX_METRICS_PER_CALL` metrics, at least one step at a time."""
    batch: list[Points] = []
    metrics = 0
    for points in steps:
        size = len(points.values) + 1
        if batch and metrics + size > MAX_METRICS_PER_CALL:
            yield batch
            batch, metrics = [], 0
        batch.append(points)
        metrics += size
    if batch:
        yield batch


def metric_name(name: str) -> str:
    """Return a metric's name as MLflow accepts it: it has no `@`."""
    return name.replace("@", "_at_")


def plain_name(name: str) -> str:
    """Return a metric's name as training writes it."""
    return name.replace("_at_", "@")


def _metrics(points: Points) -> Iterator[Metric]:
    line = points.line
    for name, value in points.values.items():
        if name != STEP_METRIC:
            yield Metric(metric_name(name), float(value), line.time_ms, line.step)
    yield Metric(STEP_METRIC, float(line.samples), line.time_ms, line.step)


def _parts(metrics: Iterable[Metric]) -> Iterator[list[Metric]]:
    remaining = iter(metrics)
    while part := list(islice(remaining, MAX_METRICS_PER_CALL)):
        yield part
