"""A run in MLflow, as the command line sees it: asked and told at once, with errors for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from orchestrator.track.connection import Connection, TrackingError
from orchestrator.track.metric_log import now_ms
from orchestrator.track.step_sender import metric_name, plain_name

Curve = tuple[list[int], list[float]]
"""Steps in ascending order, and the metric's value at each."""

Curves = dict[str, Curve]


class TrackedRun:
    """One MLflow run.

    Args:
        uri: MLflow tracking URI, or 'environment'.
        run_id: the run.
        now_ms: the time in milliseconds.

    Raises:
        TrackingError: MLflow cannot be reached, or has no such run; so do all methods.
    """

    def __init__(self, uri: str, run_id: str, now_ms: Callable[[], int] = now_ms) -> None:
        self.connection = Connection(uri, run_id)
        self.run_id = run_id
        self._now_ms = now_ms
        self.status()

    def status(self) -> str:
        """Return the run's status: RUNNING, FINISHED, FAILED or KILLED."""
        with self.explained():
            return str(self.connection.client.get_run(self.run_id).info.status)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step, whatever was logged before."""
        now = self._now_ms()
        metrics = [Metric(metric_name(name), float(value), now, step) for name, value in values.items()]
        with self.explained():
            self.connection.client.log_batch(self.run_id, metrics=metrics)

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
        """Return one metric's steps and values; none when the run has no such metric."""
        with self.explained():
            history = self.connection.client.get_metric_history(self.run_id, metric_name(name))
        points = sorted(history, key=lambda metric: int(metric.step))
        return [metric.step for metric in points], [metric.value for metric in points]

    def times_ms(self) -> tuple[int, int | None]:
        """Return when the run started and ended, in milliseconds since 1970."""
        with self.explained():
            info = self.connection.client.get_run(self.run_id).info
            return info.start_time, info.end_time

    def files(self, folder: str | None = None) -> set[str]:
        """Return the paths of the files in a folder of the run, None for the top."""
        with self.explained():
            found = self.connection.client.list_artifacts(self.run_id, folder)
            return {file.path for file in found if not file.is_dir}

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what MLflow and its artifact store raise into an error for people.

        Raises:
            TrackingError: something went wrong inside.
        """
        try:
            yield
        except TrackingError:
            raise
        except Exception as error:
            if isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST":
                said = self.connection.hide(error)
                raise TrackingError(f"MLflow has no run {self.run_id}: {said}. Check tracking.uri.") from None
            raise self.connection.away(error) from None
