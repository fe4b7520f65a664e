"""Sends the metrics of steps so that each of them is in MLflow once, whatever happens on the way.

One metric decides whether a step is there: `samples`, which every step has, whatever its workload. It is the last of
its step, a step is never divided between two requests if it fits into one, and MLflow's databases take the metrics of
a request whole or not at all; so where it is, all others of the step are. Two cases remain. An answer may be lost, so
that nobody knows whether the request arrived; then it is read anew which steps are there before anything is sent again.
(A request that arrives later still, from a server that hung, doubles nothing in a database: the same point, with its
value, step and time, is taken once.) And a store of files may have taken a part of a request when its server died, up
to some metric of one step; so after a failure, and at the start, the first step to be sent is looked at metric by
metric.
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
        self._read_back: dict[str, StepRanges] = {}
        self.sent = 0

    def present(self) -> StepRanges:
        """Return the steps that MLflow has; asked for once, and again after a failure.

        Raises:
            Exception: what the client raises when MLflow is away.
        """
        if self._present is None:
            self._present = self._history(STEP_METRIC)
        return self._present

    def send(self, batch: Sequence[Points]) -> None:
        """Send the steps of a batch that MLflow lacks; may be called again with the same batch after it raised.

        Raises:
            Exception: what the client raises when MLflow is away.
        """
        present = self.present()
        new = {points.line.step: points for points in batch if points.line.step not in present}
        metrics = [metric for points in new.values() for metric in _metrics(points)]
        if metrics and not self._sure:
            metrics = self._lacking(metrics, present)
        self._sure, self._present, self._read_back = False, None, {}
        for part in _parts(metrics):
            self._send_part(part)
        for step in new:
            present.add(step)
        self._sure, self._present = True, present
        self.sent += len(new)

    def _send_part(self, metrics: Sequence[Metric]) -> None:
        groups: dict[str, list[Metric]] = defaultdict(list)
        for metric in metrics:
            groups[metric.key].append(metric)
        kept = {
            name: group for name, group in groups.items() if not self._refusals.leave_out("metrics", name, len(group))
        }

        def send(some: list[Metric]) -> None:
            in_order = sorted(some, key=lambda metric: (metric.step, metric.key == STEP_METRIC))
            self._connection.client.log_batch(self._connection.run_id, metrics=in_order)

        send_apart(kept, send, self._refusals, "metrics")

    def _lacking(self, metrics: Sequence[Metric], present: StepRanges) -> list[Metric]:
        """Leave out metrics of the first step that are there although the step is not."""
        first = metrics[0].step
        run = self._connection.client.get_run(self._connection.run_id)
        newest = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        suspects = {metric.key for metric in metrics if metric.step == first and newest.get(metric.key, -1) >= first}
        if first < present.stop:
            suspects = {name for name in suspects if first in self._history_once(name)}
        return [metric for metric in metrics if metric.step != first or metric.key not in suspects]

    def _history_once(self, name: str) -> StepRanges:
        """Return the steps at which a metric is there; kept until something is sent."""
        if name not in self._read_back:
            self._read_back[name] = self._history(name)
        return self._read_back[name]

    def _history(self, name: str) -> StepRanges:
        history = self._connection.client.get_metric_history(self._connection.run_id, name)
        return StepRanges(point.step for point in history)


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
