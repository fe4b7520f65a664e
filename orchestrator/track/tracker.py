"""What a run's driver tells MLflow. Nothing here waits for the server, save the start and, for a while, the end."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator.storage.location import Location
from orchestrator.track.client import SQLITE, Connection, TrackingError, address, away, connect
from orchestrator.track.metric_log import StepLine
from orchestrator.track.outbox import LINGER_S, Outbox, RejectedKeys
from orchestrator.track.payloads import CatchUp, Copy, Parameters, PointsOf, Status, Steps, Tags, Text
from orchestrator.track.run_writer import Points, StepSender

PATIENCE_S = 60.0
"""How long the end of a run waits for a server that does not answer."""

GREETING_S = 1.0
"""How long a continued run waits for it before going on."""


@dataclass(frozen=True, slots=True)
class OutboxOptions:
    """How a tracker's outboxes send.

    Args:
        linger_s: seconds to wait for more before sending.
        pause: waits some seconds before the next attempt; None: so that the end of the run cuts it short.
        clock: seconds that only go forward.
        patience_s: how long the end of a run waits for a server that does not answer.
        greeting_s: how long a continued run waits for it before going on.
    """

    linger_s: float = LINGER_S
    pause: Callable[[float], None] | None = None
    clock: Callable[[], float] = time.monotonic
    patience_s: float = PATIENCE_S
    greeting_s: float = GREETING_S

    def open(self, subject: str, log: Callable[[str], None], explain: Callable[[object], str]) -> Outbox:
        """Open an outbox."""
        return Outbox(subject, log, explain, self.linger_s, self.pause, self.clock)


@dataclass(frozen=True, slots=True)
class Unsent:
    """What MLflow did not get by the end of a run.

    Args:
        lines: steps that may not have arrived.
        others: what else did not, for people.
    """

    lines: tuple[StepLine, ...]
    others: tuple[str, ...]


class Tracker:
    """A run in MLflow, as its driver sees it: everything is taken at once and sent in the background.

    Metrics, parameters, tags and the status go one way, files another, so that an artifact store that is away holds
    up nothing else. At most `MAX_STEPS_IN_MEMORY` steps wait in memory; the run's metric log has them all.

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
        self._refusals = RejectedKeys(log, self._connection.hide)
        self._sender = StepSender(self._connection, self._refusals)
        self._steps = Steps(self._sender)
        self._log = log
        self._main = self._outboxes.open("MLflow", log, self._connection.hide)
        self._files = self._outboxes.open("MLflow's artifact store", log, self._connection.hide)

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
        """Create a run in an experiment, which is made if need be.

        A run of the same name and tags that nothing was ever logged to is taken instead: its driver was lost before it
        could remember the run.

        Args:
            uri: MLflow tracking URI, or 'environment'.
            experiment: its name.
            name: the run's name.
            tags: the run's first tags.
            log: takes messages for the user.
            artifacts: where the files of a new experiment go; None: where MLflow puts them.
            outboxes: how things are sent.

        Raises:
            TrackingUnavailableError: MLflow cannot be reached, or refuses.
            TrackingError: the environment does not say where it is.
        """
        place = address(uri)
        try:
            client = connect(place)
            found = client.get_experiment_by_name(experiment)
            experiment_id = (
                found.experiment_id
                if found
                else client.create_experiment(experiment, artifact_location=artifacts or _beside(place))
            )
            run_id = find_orphaned_run(client, experiment_id, name, tags) if found else None
            if run_id is None:
                run_id = client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
        except Exception as error:
            raise away(place, error) from None
        return cls(uri, run_id, log, outboxes)

    @classmethod
    def resume(cls, uri: str, run_id: str, log: Callable[[str], None], outboxes: OutboxOptions | None = None) -> Self:
        """Mark a run as running again; when MLflow is away, that is done as soon as it is back.

        Raises:
            TrackingError: MLflow has no such run.
        """
        tracker = cls(uri, run_id, log, outboxes)
        greeting = _Greeting(tracker._connection)
        tracker._main.put(greeting)
        tracker._main.wait(tracker._outboxes.greeting_s)
        if greeting.missing:
            tracker._stop()
            raise TrackingError(f"MLflow has no run {run_id}: {greeting.missing}. Check tracking.uri.")
        return tracker

    def step(self, points: Points) -> None:
        """Log a step, unless MLflow has it already."""
        self._steps.add(points)
        self._main.put(self._steps)

    def catch_up(self, log: Location, points_of: PointsOf, stop: int | None = None) -> None:
        """Log the steps before `stop` that a metric log has and MLflow lacks."""
        self._main.put(CatchUp(self._sender, log, points_of, stop))

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, nested mappings as dotted names; those that were logged before stay as they are."""
        self._main.put(Parameters(self._connection, self._refusals, flatten(values)))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._main.put(Tags(self._connection, self._refusals, dict(values)))

    def copy(self, source: Location, folder: str) -> None:
        """Store a folder's files with the run."""
        self._files.put(Copy(self._connection, source, folder))

    def text(self, content: str, name: str) -> None:
        """Store text as a file with the run."""
        self._files.put(Text(self._connection, content, name))

    @property
    def spilled_steps(self) -> int:
        """How many steps were left to the metric log since memory is not for them."""
        return self._steps.spilled_steps

    def wait(self, patience_s: float) -> bool:
        """Wait until everything is sent; return False when a server stays away for too long."""
        main, files = self._main.wait(patience_s), self._files.wait(patience_s)
        return main and files

    def finish(self, status: str, ended_ms: int) -> Unsent | None:
        """End the run, waiting a bounded time for a server that is away.

        Args:
            status: FINISHED, FAILED or KILLED.
            ended_ms: when the run ended, in milliseconds since 1970.

        Returns:
            What did not arrive, None when all did.
        """
        self._main.put(Status(self._connection, status, ended_ms))
        arrived = self.wait(self._outboxes.patience_s)
        self._stop()
        if self._refusals.count:
            names = ", ".join(self._refusals.names)
            self._log(f"MLflow refused {self._refusals.count} values of {names}; they are in the run's folder.")
        if arrived:
            return None
        others = [one.what for box in (self._main, self._files) for one in box.unsent() if one is not self._steps]
        return Unsent(tuple(self._steps.unsent()), tuple(dict.fromkeys(others)))

    def _stop(self) -> None:
        for box in (self._main, self._files):
            box.stop()


class _Greeting(Status):
    """Marks a run as running and finds out whether it is there."""

    missing = ""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, "RUNNING")

    def attempt(self) -> bool:
        try:
            return super().attempt()
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.missing = self.connection.hide(error)
            return True


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _beside(uri: str) -> str | None:
    """Return the folder for artifacts beside an SQLite file; other stores know a place themselves."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / "mlflow-artifacts").absolute().as_uri()


# Runs in MLflow whose driver was lost before it could remember them.


NAME = "mlflow.runName"


def find_orphaned_run(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> str | None:
    """Return the id of a run that was created with this name and these tags and never used; None when there is none.

    Args:
        client: MLflow.
        experiment_id: where to look.
        name: the run's name.
        tags: its first tags.
    """
    wanted = {NAME: name, **tags}
    if not tags or any("'" in value for value in wanted.values()):
        return None  # nothing tells runs apart, or not in a way that MLflow's filters can be told
    condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
    found = client.search_runs([experiment_id], f"{condition} and attributes.status = 'RUNNING'")
    return next((run.info.run_id for run in found if _unused(run)), None)


def _unused(run: Run) -> bool:
    return not run.data.metrics and not run.data.params


# What a run was done with, as tags: machines, versions, the commit of the user's code. Nothing secret.


PACKAGES = ("fuseray", "ray", "torch", "mlflow")
COMMIT_TAG = "mlflow.source.git.commit"
GIT_PATIENCE_S = 5


def system_tags(hosts: int, workers: int, folder: Path) -> dict[str, str]:
    """Return the tags.

    Args:
        hosts: machines of the cluster.
        workers: training workers.
        folder: where the user works; its commit is told when it belongs to a git repository.
    """
    tags = {"hosts": str(hosts), "workers": str(workers)}
    tags |= {f"version/{package}": found for package in PACKAGES if (found := _version(package))}
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
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
