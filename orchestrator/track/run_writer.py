"""MLflow runs: synchronous reads and writes for the command line, and sending steps exactly once.

One metric decides whether a step is present: `samples`, which every step has, whatever its workload. It is the last of
its step, a step is never divided between two requests if it fits into one, and MLflow's databases store the metrics of
a request atomically; so where it is, all others of the step are. Two cases remain. An answer may be lost, so that the
request may or may not have arrived; then the present steps are read again before anything is sent again. (A request
that arrives later still, from a server that hung, doubles nothing in a database: the same point, with its value, step
and time, is stored once.) And a file store may have stored a part of a request when its server died, up to some metric
of one step; so after a failure, and at the start, the first step to be sent is checked metric by metric.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from mlflow.entities import Metric

from orchestrator.storage.timing import now_ms
from orchestrator.track.client import Connection
from orchestrator.track.metric_log import StepLine
from orchestrator.track.outbox import RejectedKeys, send_batch_or_split

Curve = tuple[list[int], list[float]]
"""Steps in ascending order, and the metric's value at each."""

Curves = dict[str, Curve]


def add_metrics(connection: Connection, step: int, values: Mapping[str, float], now_ms: int) -> None:
    """Log metrics of a step, whatever was logged before: these values are then the step's.

    Args:
        connection: to the run.
        step: the step.
        values: by the names that training uses.
        now_ms: the time in milliseconds.
    """
    named = {metric_name(name): float(value) for name, value in values.items()}
    newest = connection.client.get_run(connection.run_id).data.to_proto().metrics
    earlier = [metric.timestamp for metric in newest if metric.key in named and metric.step == step]
    time_ms = max([now_ms, *(time + 1 for time in earlier)])
    metrics = [Metric(name, value, time_ms, step) for name, value in named.items()]
    connection.client.log_batch(connection.run_id, metrics=metrics)


class TrackedRun:
    """One MLflow run.

    Args:
        uri: MLflow tracking URI, or 'environment'.
        run_id: the run.
        now_ms: the time in milliseconds.

    Raises:
        TrackingError: MLflow cannot be reached, refuses, or has no such run, or it is deleted; so do all methods.
    """

    def __init__(self, uri: str, run_id: str, now_ms: Callable[[], int] = now_ms) -> None:
        self.connection = Connection(uri, run_id)
        self.run_id = run_id
        self._now_ms = now_ms
        self.status()

    def status(self) -> str:
        """Return the run's status: RUNNING, FINISHED, FAILED or KILLED."""
        with self.explained():
            return str(self.connection.run().info.status)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step, whatever was logged before: these values are then the step's.

        Of several values at one step, MLflow shows the one with the latest time, and of those with the same time the
        largest; so the time is later than any there, whichever clock that came from.
        """
        with self.explained():
            add_metrics(self.connection, step, values, self._now_ms())

    def text(self, content: str, name: str) -> None:
        """Store text as a file with the run."""
        with self.explained():
            self.connection.client.log_text(self.run_id, content, name)

    def curves(self) -> Curves:
        """Return every metric's steps and values, by the names that training uses."""
        return {name: self.curve(name) for name in self.metric_names()}

    def metric_names(self) -> list[str]:
        """Return which metrics the run has, by the names that training uses."""
        with self.explained():
            return sorted(plain_name(name) for name in self.connection.client.get_run(self.run_id).data.metrics)

    def curve(self, name: str) -> Curve:
        """Return one metric's steps and values, of a step the last one; none when the run has no such metric."""
        with self.explained():
            history = self.connection.client.get_metric_history(self.run_id, metric_name(name))
        points = sorted(history, key=lambda metric: (int(metric.step), int(metric.timestamp)))
        values = {metric.step: metric.value for metric in points}
        return list(values), list(values.values())

    def times_ms(self) -> tuple[int, int | None]:
        """Return when the run started and ended, in milliseconds since 1970."""
        with self.explained():
            info = self.connection.client.get_run(self.run_id).info
            return info.start_time, info.end_time

    def files(self, folder: str | None = None) -> set[str]:
        """Return the paths of the files in a folder of the run, None for the top."""
        with self.explained():
            artifacts = self.connection.client.list_artifacts(self.run_id, folder)
            return {file.path for file in artifacts if not file.is_dir}

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what MLflow and its artifact store raise into an user-facing error.

        Raises:
            TrackingError: something went wrong inside.
        """
        try:
            yield
        except Exception as error:
            raise self.connection.explain(error) from None


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
        rejected: remembers metrics that MLflow refuses.
    """

    def __init__(self, connection: Connection, rejected: RejectedKeys) -> None:
        self._connection = connection
        self._rejected = rejected
        self._present: StepRanges | None = None
        self._in_sync = False
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
        if metrics and not self._in_sync:
            metrics = self._lacking(metrics, present)
        self._in_sync, self._present, self._read_back = False, None, {}
        for part in _parts(metrics):
            self._send_part(part)
        for step in new:
            present.add(step)
        self._in_sync, self._present = True, present
        self.sent += len(new)

    def _send_part(self, metrics: Sequence[Metric]) -> None:
        groups: dict[str, list[Metric]] = defaultdict(list)
        for metric in metrics:
            groups[metric.key].append(metric)
        accepted = {
            name: group for name, group in groups.items() if not self._rejected.skip("metrics", name, len(group))
        }

        def send(some: list[Metric]) -> None:
            in_order = sorted(some, key=lambda metric: (metric.step, metric.key == STEP_METRIC))
            self._connection.client.log_batch(self._connection.run_id, metrics=in_order)

        send_batch_or_split(accepted, send, self._rejected, "metrics")

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


class StepRanges:
    """A set of steps, kept as ranges: the steps of a long run are one or two of them.

    Args:
        steps: what is in it, in any order.
    """

    def __init__(self, steps: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for step in sorted(steps):
            self.add(step)

    def add(self, step: int) -> None:
        """Put a step in."""
        if step in self:
            return
        index = bisect_right(self._starts, step)
        joins_left = index > 0 and self._stops[index - 1] == step
        joins_right = index < len(self._starts) and self._starts[index] == step + 1
        if joins_left and joins_right:
            self._stops[index - 1] = self._stops.pop(index)
            del self._starts[index]
        elif joins_left:
            self._stops[index - 1] = step + 1
        elif joins_right:
            self._starts[index] = step
        else:
            self._starts.insert(index, step)
            self._stops.insert(index, step + 1)

    @property
    def stop(self) -> int:
        """The step after the last one, 0 when there is none."""
        return self._stops[-1] if self._stops else 0

    def covers(self, steps: range) -> bool:
        """Return whether all of some neighbouring steps are in it."""
        if not steps:
            return True
        index = bisect_right(self._starts, steps.start)
        return index > 0 and steps.stop <= self._stops[index - 1]

    def __contains__(self, step: int) -> bool:
        return self.covers(range(step, step + 1))

    def __iter__(self) -> Iterator[int]:
        for start, stop in zip(self._starts, self._stops, strict=True):
            yield from range(start, stop)

    def __len__(self) -> int:
        return sum(stop - start for start, stop in zip(self._starts, self._stops, strict=True))
