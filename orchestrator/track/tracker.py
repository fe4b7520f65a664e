"""The driver's side of an MLflow run: everything is queued and sent in the background.

Only the start of a new run waits for the server, and its end for a bounded time.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from orchestrator.config.document import flatten
from orchestrator.config.recipe_paths import SQLITE
from orchestrator.storage.location import Location
from orchestrator.track.client import Connection, connect, resolve_uri
from orchestrator.track.metric_log import MeasuredLine, StepLine
from orchestrator.track.mlflow_errors import TrackingError, explain_error, is_rejection, refuse_deleted_experiment
from orchestrator.track.outbox import LINGER_S, Outbox, RejectedKeys
from orchestrator.track.payloads import (
    CatchUpDelivery,
    FolderDelivery,
    MeasuredDelivery,
    ParamsDelivery,
    PointsOf,
    StatusDelivery,
    StepsDelivery,
    TagsDelivery,
    TextDelivery,
)
from orchestrator.track.run_writer import Points, StepSender

TIMEOUT_S = 60.0
"""Seconds for which the end of a run waits for a server that does not answer."""

RESUME_WAIT_S = 1.0
"""Seconds for which a resumed run waits for the server before continuing."""


@dataclass(frozen=True, slots=True)
class OutboxOptions:
    """How a tracker's outboxes send.

    Args:
        linger_s: seconds to wait for more before sending.
        pause: waits some seconds before the next attempt; None: so that the end of the run cuts it short.
        clock: seconds that only go forward.
        timeout_s: how long the end of a run waits for a server that does not answer.
        resume_wait_s: how long a continued run waits for it before continuing.
    """

    linger_s: float = LINGER_S
    pause: Callable[[float], None] | None = None
    clock: Callable[[], float] = time.monotonic
    timeout_s: float = TIMEOUT_S
    resume_wait_s: float = RESUME_WAIT_S

    def open(self, subject: str, log: Callable[[str], None], explain: Callable[[object], str]) -> Outbox:
        """Open an outbox."""
        return Outbox(subject, log, explain, self.linger_s, self.pause, self.clock)


@dataclass(frozen=True, slots=True)
class Unsent:
    """What MLflow did not get by the end of a run.

    Args:
        lines: steps that may not have arrived.
        others: what else did not, for messages.
    """

    lines: tuple[StepLine, ...]
    others: tuple[str, ...]


class Tracker:
    """An MLflow run, logged to in the background.

    Metrics, parameters, tags and the status have one outbox, files another, so that an unavailable artifact store
    delays nothing else. At most `MAX_STEPS_IN_MEMORY` steps wait in memory; the run's metric log has them all.

    Args:
        uri: MLflow tracking URI, or 'environment'.
        run_id: the run.
        log: takes messages for the user, from threads of the tracker.
        outboxes: how things are sent.
    """

    def __init__(
        self, uri: str, run_id: str, log: Callable[[str], None], outboxes: OutboxOptions | None = None
    ) -> None:
        self.run_id = run_id
        self._connection = Connection(uri, run_id)
        self._outboxes = outboxes or OutboxOptions()
        self._rejected = RejectedKeys(log, self._connection.redact)
        self._sender = StepSender(self._connection, self._rejected)
        self._steps = StepsDelivery(self._sender)
        self._log = log
        self._main = self._outboxes.open("MLflow", log, self._connection.describe)
        self._files = self._outboxes.open("MLflow's artifact store", log, self._connection.redact)

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        log: Callable[[str], None],
        artifacts: str | None = None,
        outboxes: OutboxOptions | None = None,
    ) -> Self:
        """Create a run in an experiment, which is created if needed.

        A run of the same name and tags without any data is used instead: its driver was lost before it could record the
        run's id.

        Args:
            uri: MLflow tracking URI, or 'environment'.
            experiment: its name.
            name: the run's name.
            tags: the run's first tags.
            log: takes messages for the user.
            artifacts: where the files of a new experiment go; None: where MLflow puts them.
            outboxes: how things are sent.

        Raises:
            TrackingUnavailableError: MLflow cannot be reached.
            TrackingError: it denies access, refuses, the experiment is deleted, or the environment does not say where
                MLflow is.
        """
        tracking_uri = resolve_uri(uri)
        try:
            client = connect(tracking_uri, create=True)
            existing = client.get_experiment_by_name(experiment)
            if existing:
                refuse_deleted_experiment(existing, tracking_uri)
            experiment_id = (
                existing.experiment_id
                if existing
                else client.create_experiment(experiment, artifact_location=artifacts or _artifact_folder(tracking_uri))
            )
            run_id = find_orphaned_run(client, experiment_id, name, tags) if existing else None
            if run_id is None:
                run_id = client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
        except Exception as error:
            raise explain_error(tracking_uri, error) from None
        return cls(uri, run_id, log, outboxes)

    @classmethod
    def resume(cls, uri: str, run_id: str, log: Callable[[str], None], outboxes: OutboxOptions | None = None) -> Self:
        """Mark a run as running again; when MLflow is unavailable, that is done as soon as it is back.

        Raises:
            TrackingError: MLflow has no such run, it is deleted, or the store of that name refuses or is not there.
        """
        tracker = cls(uri, run_id, log, outboxes)
        resume = _ResumeDelivery(tracker._connection)
        tracker._main.put(resume)
        tracker._main.wait(tracker._outboxes.resume_wait_s)
        if resume.refusal is not None:
            tracker.abandon()
            raise resume.refusal
        return tracker

    def step(self, points: Points) -> None:
        """Log a step, unless MLflow has it already."""
        self._steps.add(points)
        self._main.put(self._steps)

    def catch_up(self, log: Location, points_of: PointsOf, stop: int | None = None) -> None:
        """Log the steps before `stop` that a metric log has and MLflow lacks."""
        self._main.put(CatchUpDelivery(self._sender, log, points_of, stop))

    def measured(self, lines: Sequence[MeasuredLine]) -> None:
        """Log what was measured of steps after them, unless MLflow has it already."""
        if lines:
            self._main.put(MeasuredDelivery(self._connection, tuple(lines)))

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, nested mappings as dotted names; those that were logged before stay as they are."""
        self._main.put(ParamsDelivery(self._connection, self._rejected, flatten(values)))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._main.put(TagsDelivery(self._connection, self._rejected, dict(values)))

    def copy(self, source: Location, folder: str) -> None:
        """Store a folder's files with the run."""
        self._files.put(FolderDelivery(self._connection, source, folder))

    def text(self, content: str, name: str) -> None:
        """Store text as a file with the run."""
        self._files.put(TextDelivery(self._connection, content, name))

    @property
    def spilled_steps(self) -> int:
        """Number of steps that were dropped from memory and are in the metric log alone."""
        return self._steps.spilled_steps

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is sent; return False when a server stays away for too long."""
        main, files = self._main.wait(timeout_s), self._files.wait(timeout_s)
        return main and files

    def finish(self, status: str, ended_ms: int) -> Unsent | None:
        """End the run, waiting a bounded time for a server that is away.

        Args:
            status: FINISHED, FAILED or KILLED.
            ended_ms: when the run ended, in milliseconds since 1970.

        Returns:
            What did not arrive, None when all did.
        """
        self._main.put(StatusDelivery(self._connection, status, ended_ms))
        arrived = self.wait(self._outboxes.timeout_s)
        self.abandon()
        if self._rejected.count:
            names = ", ".join(self._rejected.names)
            self._log(f"MLflow refused {self._rejected.count} values of {names}; they are in the run's folder.")
        if arrived:
            return None
        others = [
            delivery.description
            for box in (self._main, self._files)
            for delivery in box.unsent()
            if delivery is not self._steps
        ]
        return Unsent(tuple(self._steps.unsent()), tuple(dict.fromkeys(others)))

    def abandon(self) -> None:
        """Stop sending, whatever has not arrived, and leave the run's status as it is."""
        for box in (self._main, self._files):
            box.stop()


class _ResumeDelivery(StatusDelivery):
    """Marks a run as running; keeps the reason when that will never be possible, for the run is missing or deleted."""

    refusal: TrackingError | None = None

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, "RUNNING")

    def attempt(self) -> bool:
        """Mark the run as running; return whether no further attempt is needed, as after a refusal."""
        try:
            self.connection.run()
            return super().attempt()
        except Exception as error:
            if not isinstance(error, TrackingError) and not is_rejection(error):
                raise
            self.refusal = self.connection.explain(error)
            return True


def _artifact_folder(uri: str) -> str | None:
    """Return the folder for artifacts next to an SQLite file; other stores have a location of their own."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / "mlflow-artifacts").absolute().as_uri()


RUN_NAME_TAG = "mlflow.runName"


def find_orphaned_run(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> str | None:
    """Return the id of a run that was created with this name and these tags and never used; None when there is none.

    Args:
        client: MLflow.
        experiment_id: where to look.
        name: the run's name.
        tags: its first tags.
    """
    required = {RUN_NAME_TAG: name, **tags}
    if not tags or any("'" in value for value in required.values()):
        return None  # nothing distinguishes runs, or MLflow's filter syntax cannot express it
    condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in required.items())
    existing = client.search_runs([experiment_id], f"{condition} and attributes.status = 'RUNNING'")
    return next((run.info.run_id for run in existing if _unused(run)), None)


def _unused(run: Run) -> bool:
    return not run.data.metrics and not run.data.params


PACKAGES = ("fuseray", "ray", "torch", "mlflow")
COMMIT_TAG = "mlflow.source.git.commit"
GIT_TIMEOUT_S = 5


def system_tags(hosts: int, workers: int, folder: Path) -> dict[str, str]:
    """Return the tags.

    Args:
        hosts: machines of the cluster.
        workers: training workers.
        folder: where the user works; its git commit is a tag when it is in a repository.
    """
    tags = {"hosts": str(hosts), "workers": str(workers)}
    tags |= {f"version/{package}": installed for package in PACKAGES if (installed := _version(package))}
    commit = _commit(folder)
    return tags | ({COMMIT_TAG: commit} if commit else {})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
