"""Sends to MLflow what it lacks of a run's folder, for runs that ended while MLflow was unavailable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.config.document import flatten
from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.metric_log import EventLog, event_tags, read_measured_log
from orchestrator.track.outbox import Delivery, RejectedKeys
from orchestrator.track.payloads import (
    CatchUpDelivery,
    FolderDelivery,
    MeasuredDelivery,
    ParamsDelivery,
    PointsOf,
    StatusDelivery,
    TagsDelivery,
    TextDelivery,
)
from orchestrator.track.run_writer import StepSender, TrackedRun


@dataclass(slots=True)
class SyncResult:
    """What was sent to MLflow.

    Args:
        mlflow_run_id: the run there.
        steps: steps that it lacked.
        status: its status now.
        status_before: its status until then.
        events: events of the run, all of which are there now.
        files: files that it lacked.
        messages: what MLflow refused.
    """

    mlflow_run_id: str
    steps: int = 0
    status: str = ""
    status_before: str = ""
    events: int = 0
    files: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def sync_to_mlflow(
    run: RunFolder, params: dict[str, Any], points_of: PointsOf, tags: Mapping[str, str] | None = None
) -> SyncResult:
    """Publish what MLflow lacks of a run; nothing is published twice, so it may be done again at any time.

    Args:
        run: the run.
        params: its recipe, nested.
        points_of: works out what MLflow gets of a step.
        tags: those that tell of the run as a whole.

    Raises:
        TrackingError: MLflow cannot be reached, or has no such run.
        RunError: there is no run.
    """
    file = run.read()
    tracked = TrackedRun(file.tracking_uri, file.mlflow_run_id)
    synced = SyncResult(file.mlflow_run_id, status=file.status, status_before=tracked.status())
    rejected = RejectedKeys(synced.messages.append, tracked.connection.redact)
    sender = StepSender(tracked.connection, rejected)
    events = EventLog(run.events).events
    deliveries: list[Delivery] = [
        ParamsDelivery(tracked.connection, rejected, flatten(params)),
        TagsDelivery(tracked.connection, rejected, event_tags(events) | dict(tags or {})),
        CatchUpDelivery(sender, run.metrics, points_of),
        MeasuredDelivery(tracked.connection, read_measured_log(run.measured)),
    ]
    if file.status != synced.status_before:
        deliveries.append(StatusDelivery(tracked.connection, file.status, _milliseconds(file.ended)))
    deliveries += _missing_files(run, tracked, synced.files, finished=file.status == "FINISHED")
    with tracked.explained():
        for delivery in deliveries:
            _deliver(delivery.attempt)
    synced.steps, synced.events = sender.sent, len(events)
    return synced


def _missing_files(run: RunFolder, tracked: TrackedRun, names: list[str], finished: bool) -> list[Delivery]:
    deliveries: list[Delivery] = []
    if "recipe.yaml" not in tracked.files():
        deliveries.append(TextDelivery(tracked.connection, run.recipe.read().decode(), "recipe.yaml"))
        names.append("recipe.yaml")
    model = {f"model/{name}" for name in run.model.sizes()}
    if finished and model - tracked.files("model"):
        deliveries.append(FolderDelivery(tracked.connection, run.model, "model"))
        names += sorted(model)
    return deliveries


def _deliver(attempt: Callable[[], bool]) -> None:
    while not attempt():
        pass


def _milliseconds(time: str) -> int | None:
    return round(datetime.fromisoformat(time).timestamp() * 1000) if time else None
