"""MLflow tracking. The driver logs, in batches; training never waits for the server."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator.spec.errors import FuserayError
from orchestrator.storage.location import Location

MAX_METRICS_PER_CALL = 900
MAX_PARAM_LENGTH = 500
STEP_METRIC = "loss"

Curve = tuple[list[int], list[float]]
"""Steps in ascending order, and the metric's value at each."""

Curves = dict[str, Curve]


class TrackingError(FuserayError):
    """MLflow cannot be reached, or refuses the run."""


class Tracker:
    """One MLflow run.

    Args:
        uri: MLflow tracking URI.
        run_id: the run.
        now_ms: the time in milliseconds.

    Raises:
        TrackingError: MLflow cannot be reached, or has no such run.
    """

    def __init__(self, uri: str, run_id: str, now_ms: Callable[[], int] = lambda: int(time.time() * 1000)) -> None:
        self._client = _client(uri)
        self.run_id = run_id
        self._now_ms = now_ms
        self._pending: list[Metric] = []
        self._logged_up_to = self._last_step()

    @classmethod
    def start(cls, uri: str, experiment: str, name: str, tags: Mapping[str, str]) -> Tracker:
        """Create a run in an experiment, which is made if need be.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        client = _client(uri)
        try:
            found = client.get_experiment_by_name(experiment)
            experiment_id = (
                found.experiment_id
                if found
                else client.create_experiment(experiment, artifact_location=_artifacts(uri))
            )
            run = client.create_run(experiment_id, run_name=name, tags=dict(tags))
        except MlflowException as error:
            raise TrackingError(f"{uri}: MLflow refuses a run in experiment {experiment!r}: {error}") from error
        return cls(uri, run.info.run_id)

    def resume(self) -> None:
        """Mark the run as running again."""
        self._client.update_run(self.run_id, status="RUNNING")

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, nested mappings as dotted names."""
        flat = _flatten(values)
        known = self._client.get_run(self.run_id).data.params
        new = [Param(name, str(value)[:MAX_PARAM_LENGTH]) for name, value in flat.items() if name not in known]
        for start in range(0, len(new), 100):
            self._client.log_batch(self.run_id, params=new[start : start + 100])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Remember metrics of a step; a step that was logged before a restart is not logged again."""
        if step > self._logged_up_to:
            now = self._now_ms()
            self._pending += [Metric(metric_name(name), float(value), now, step) for name, value in values.items()]

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step at once, whatever was logged before."""
        now = self._now_ms()
        metrics = [Metric(metric_name(name), float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def flush(self) -> None:
        """Send what is remembered."""
        while self._pending:
            self._client.log_batch(self.run_id, metrics=self._pending[:MAX_METRICS_PER_CALL])
            del self._pending[:MAX_METRICS_PER_CALL]

    def copy(self, source: Location, folder: str) -> None:
        """Store a folder's files with the run."""
        with TemporaryDirectory() as temporary:
            for file in source.list():
                (Path(temporary) / file.name).write_bytes(file.read())
            self._client.log_artifacts(self.run_id, temporary, folder)

    def text(self, content: str, name: str) -> None:
        """Store text as a file with the run."""
        self._client.log_text(self.run_id, content, name)

    def finish(self, status: str) -> None:
        """Send what is remembered and end the run as FINISHED, FAILED or KILLED."""
        self.flush()
        self._client.set_terminated(self.run_id, status)

    def curves(self) -> Curves:
        """Return every metric's steps and values, by the names that training uses."""
        return {name: self.curve(name) for name in self.metric_names()}

    def metric_names(self) -> list[str]:
        """Return which metrics the run has, by the names that training uses."""
        return sorted(plain_name(name) for name in self._client.get_run(self.run_id).data.metrics)

    def curve(self, name: str) -> Curve:
        """Return one metric's steps and values; none when the run has no such metric."""
        return self._curve(metric_name(name))

    def times_ms(self) -> tuple[int, int | None]:
        """Return when the run started and ended, in milliseconds since 1970."""
        info = self._client.get_run(self.run_id).info
        return info.start_time, info.end_time

    def _curve(self, name: str) -> Curve:
        history = sorted(self._client.get_metric_history(self.run_id, name), key=lambda metric: int(metric.step))
        return [metric.step for metric in history], [metric.value for metric in history]

    def _last_step(self) -> int:
        try:
            logged = self._client.get_run(self.run_id).data.metrics
        except MlflowException as error:
            raise TrackingError(f"MLflow has no run {self.run_id}: {error}. Check tracking.uri.") from error
        if STEP_METRIC not in logged:
            return -1
        steps, _ = self._curve(STEP_METRIC)
        return max(steps, default=-1)


def metric_name(name: str) -> str:
    """Return a metric's name as MLflow accepts it: it has no `@`."""
    return name.replace("@", "_at_")


def plain_name(name: str) -> str:
    """Return a metric's name as training writes it."""
    return name.replace("_at_", "@")


def _client(uri: str) -> MlflowClient:
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    uri = _address(uri)
    try:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(f"{_shown(uri)}: MLflow cannot be reached: {error}. Check tracking.uri.") from error
    return client


def _address(uri: str) -> str:
    if uri != "environment":
        return uri
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise TrackingError("tracking.uri is 'environment', but the variable MLFLOW_TRACKING_URI is not set.")
    return os.environ["MLFLOW_TRACKING_URI"]


def _shown(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def _artifacts(uri: str) -> str | None:
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts").absolute().as_uri()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
