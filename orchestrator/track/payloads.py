"""Idempotent deliveries to MLflow: steps, parameters, tags, files, status, and model versions in its registry."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from mlflow.entities import Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator.storage.location import Location
from orchestrator.storage.timing import now_ms
from orchestrator.track.client import Connection
from orchestrator.track.metric_log import MeasuredLine, StepLine, logged_steps, read_metric_log
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.outbox import RejectedKeys, send_batch_or_split
from orchestrator.track.run_writer import Points, StepSender, TrackedRun, add_metrics, in_batches, metric_name

MAX_PARAM_LENGTH = 500
MAX_PER_CALL = 100
MAX_STEPS_IN_MEMORY = 20_000
"""Some 100 MB at 40 metrics a step; older steps are then left to the run's metric log."""

Named = TypeVar("Named", Param, RunTag)

PointsOf = Callable[[Iterable[StepLine]], Iterator[Points]]
"""Works out what MLflow gets of all steps of a log, in order."""


class StepsDelivery:
    """The steps that training reports, in order; the oldest are dropped from memory when there are too many.

    Args:
        sender: sends them.
        most: maximum number of steps in memory.
    """

    description = "metrics"

    def __init__(self, sender: StepSender, most: int = MAX_STEPS_IN_MEMORY) -> None:
        self._sender = sender
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[Points] = deque()
        self._batch: list[Points] = []
        self.spilled_steps = 0

    def add(self, points: Points) -> None:
        """Take a step."""
        with self._lock:
            self._waiting.append(points)
            if len(self._waiting) > self._most:
                self._waiting.popleft()
                self.spilled_steps += 1

    def attempt(self) -> bool:
        """Send the next steps."""
        with self._lock:
            if not self._batch:
                self._batch = next(in_batches(self._waiting), [])
                for _ in self._batch:
                    self._waiting.popleft()
        self._sender.send(self._batch)
        with self._lock:
            self._batch = []
            return not self._waiting

    def unsent(self) -> list[StepLine]:
        """Return the lines of the steps that have not arrived for certain."""
        with self._lock:
            return [points.line for points in (*self._batch, *self._waiting)]


class CatchUpDelivery:
    """The steps that a run's metric log has and MLflow lacks.

    Args:
        sender: sends them.
        log: folder of the metric log.
        points_of: works out what MLflow gets.
        stop: steps from here on are not sent; None: all are.
    """

    description = "the metrics of earlier steps"

    def __init__(self, sender: StepSender, log: Location, points_of: PointsOf, stop: int | None = None) -> None:
        self._sender = sender
        self._log = log
        self._points_of = points_of
        self._stop = stop
        self._batches: Iterator[list[Points]] | None = None
        self._batch: list[Points] = []

    def attempt(self) -> bool:
        """Send the next steps; the log is read only when MLflow lacks some that it may have."""
        if self._batches is None:
            self._batches = in_batches(self._missing())
        self._batch = self._batch or next(self._batches, [])
        if not self._batch:
            return True
        self._sender.send(self._batch)
        self._batch = []
        return False

    def _missing(self) -> Iterator[Points]:
        present = self._sender.present()
        logged = [range(steps.start, self._before_stop(steps.stop)) for steps in logged_steps(self._log)]
        if all(present.covers(steps) for steps in logged):
            return
        for points in self._points_of(read_metric_log(self._log)):
            step = points.line.step
            if step not in present and step < self._before_stop(step + 1):
                yield points

    def _before_stop(self, stop: int) -> int:
        return stop if self._stop is None else min(stop, self._stop)


@dataclass(eq=False)
class MeasuredDelivery:
    """What was measured of steps after them; what MLflow has already is not sent again."""

    connection: Connection
    lines: Sequence[MeasuredLine]
    description: str = "metrics that were measured beside the training"

    def attempt(self) -> bool:
        """Send what MLflow lacks."""
        for line in self.lines:
            if line.metrics and line.step not in self._steps(next(iter(line.metrics))):
                add_metrics(self.connection, line.step, line.metrics, now_ms())
        return True

    def _steps(self, name: str) -> set[int]:
        history = self.connection.client.get_metric_history(self.connection.run_id, metric_name(name))
        return {metric.step for metric in history}


@dataclass(eq=False)
class ParamsDelivery:
    """Parameters by dotted name; those that MLflow has already stay as they are."""

    connection: Connection
    rejected: RejectedKeys
    values: Mapping[str, Any]
    description: str = "parameters"

    def attempt(self) -> bool:
        """Send those that MLflow lacks."""
        client, run_id = self.connection.client, self.connection.run_id
        existing = client.get_run(run_id).data.params
        new = [
            Param(name, str(value)[:MAX_PARAM_LENGTH]) for name, value in self.values.items() if name not in existing
        ]
        _send_in_calls(new, lambda some: client.log_batch(run_id, params=some), self.rejected, "parameters")
        return True


@dataclass(eq=False)
class TagsDelivery:
    """Tags by name."""

    connection: Connection
    rejected: RejectedKeys
    values: Mapping[str, str]
    description: str = "tags"

    def attempt(self) -> bool:
        """Send them all."""
        client, run_id = self.connection.client, self.connection.run_id
        tags = [RunTag(name, value) for name, value in self.values.items()]
        _send_in_calls(tags, lambda some: client.log_batch(run_id, tags=some), self.rejected, "tags")
        return True


def _send_in_calls(
    items: Sequence[Named], send: Callable[[list[Named]], object], rejected: RejectedKeys, kind: str
) -> None:
    for start in range(0, len(items), MAX_PER_CALL):
        groups = {item.key: [item] for item in items[start : start + MAX_PER_CALL]}
        send_batch_or_split(groups, send, rejected, kind)


@dataclass(eq=False)
class TextDelivery:
    """A text that becomes a file of the run."""

    connection: Connection
    content: str
    name: str

    @property
    def description(self) -> str:
        """The file."""
        return self.name

    def attempt(self) -> bool:
        """Send it."""
        self.connection.client.log_text(self.connection.run_id, self.content, self.name)
        return True


@dataclass(eq=False)
class FolderDelivery:
    """The files of a folder in storage, sent one after the other."""

    connection: Connection
    source: Location
    folder: str
    _waiting: list[Location] | None = field(default=None, init=False)

    @property
    def description(self) -> str:
        """The folder."""
        return f"the files of {self.folder}"

    def attempt(self) -> bool:
        """Send the next file."""
        if self._waiting is None:
            self._waiting = self.source.list()
        if not self._waiting:
            return True
        with TemporaryDirectory() as temporary:
            file = Path(temporary) / self._waiting[0].name
            file.write_bytes(self._waiting[0].read())
            self.connection.client.log_artifact(self.connection.run_id, str(file), self.folder)
        self._waiting.pop(0)
        return not self._waiting


@dataclass(eq=False)
class StatusDelivery:
    """The run's status: RUNNING, or how and when it ended.

    Args:
        connection: the run.
        status: RUNNING, FINISHED, FAILED or KILLED.
        ended_ms: when it ended, in milliseconds since 1970.
    """

    connection: Connection
    status: str
    ended_ms: int | None = None
    description: str = "the status"

    def attempt(self) -> bool:
        """Send it."""
        client, run_id = self.connection.client, self.connection.run_id
        if self.status == "RUNNING":
            client.update_run(run_id, status=self.status)
        else:
            client.set_terminated(run_id, self.status, self.ended_ms)
        return True


MODEL = "model"
"""The folder of a run's artifacts that holds its exported model."""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version of a model in the registry.

    Args:
        name: the model's name.
        version: from 1.
        new: whether it was not there before.
    """

    name: str
    version: int
    new: bool

    @property
    def uri(self) -> str:
        """Its address, as MLflow's tools take it."""
        return f"models:/{self.name}/{self.version}"


def register_model(
    run: TrackedRun, model: Location, name: str, tags: Mapping[str, str], alias: str
) -> RegisteredVersion:
    """Have a run's exported model as a version of a registered model; a run that has one keeps it.

    Args:
        run: the run; files of the model that it lacks are sent first.
        model: the exported model in the run's folder.
        name: of the registered model, which is made if there is none.
        tags: of a new version; in their names MLflow takes no `@`, as in those of metrics.
        alias: points to this version from now on.

    Raises:
        TrackingError: MLflow cannot be reached, or there is no exported model.
    """
    client = run.connection.client
    with run.explained():
        _send_missing_files(run, model)
        source = f"{client.get_run(run.run_id).info.artifact_uri}/{MODEL}"
        existing = _existing_version(client, name, run.run_id, source)
        version = existing or _create_version(client, name, run.run_id, source, tags)
        client.set_registered_model_alias(name, alias, version.version)
    return RegisteredVersion(name, int(version.version), existing is None)


def _send_missing_files(run: TrackedRun, model: Location) -> None:
    exported = {f"{MODEL}/{file}" for file in model.sizes()}
    if not exported:
        raise TrackingError(
            f"{model.uri}: holds no exported model; `fuseray export RUN OUT` writes one from a checkpoint."
        )
    if exported - run.files(MODEL):
        copy = FolderDelivery(run.connection, model, MODEL)
        while not copy.attempt():
            pass


def _existing_version(client: MlflowClient, name: str, run_id: str, source: str) -> ModelVersion | None:
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        for version in page:
            if (version.run_id, version.source) == (run_id, source):
                return version
        token = page.token
        if not token:
            return None


def _create_version(client: MlflowClient, name: str, run_id: str, source: str, tags: Mapping[str, str]) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(name, source, run_id, {metric_name(key): tags[key] for key in tags})
