"""The books of a sweep: its own run in MLflow and the files in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

from orchestrator.sweep.folder import SweepFile, SweepFolder, TrialRecord
from orchestrator.sweep.plan import SweepPlan
from orchestrator.sweep.stored import store_sweep
from orchestrator.track.cost import Spent, cost_tags
from orchestrator.track.tracker import Tracker

FOLDER = "sweep_folder"
"""MLflow's tag for where a sweep is."""


class SweepBooks:
    """Keeps the books of one start of a sweep.

    Args:
        folder: the sweep's folder.
        file: what the sweep remembers.
        tracker: its run in MLflow.
        tell: takes messages for the user.
    """

    def __init__(self, folder: SweepFolder, file: SweepFile, tracker: Tracker, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._file = file
        self._tracker = tracker
        self._tell = tell

    @classmethod
    def open(cls, plan: SweepPlan, tell: Callable[[str], None]) -> Self:
        """Begin the books, or go on with those of earlier starts.

        Raises:
            TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was written.
        """
        file, tracker = _resumed(plan, tell) if plan.folder.exists() else _new(plan, tell)
        store_sweep(plan.folder, plan.sweep)
        plan.folder.write(file)
        for place in (plan.folder.spec, plan.folder.recipe):
            tracker.text(place.read().decode(), place.name)
        return cls(plan.folder, file, tracker, tell)

    @property
    def mlflow_run_id(self) -> str:
        """The sweep's own run in MLflow."""
        return self._file.mlflow_run_id

    def close(self, status: str, reason: str, spent: Spent, trials: Sequence[TrialRecord]) -> None:
        """Enter how the sweep ended.

        Args:
            status: FINISHED, FAILED or KILLED.
            reason: why it was stopped before its end; empty otherwise.
            spent: what its machines have come to.
            trials: what became of its trials.
        """
        ended = datetime.now(UTC)
        counts = {f"trials/{name.lower()}": str(count) for name, count in _by_status(trials).items()}
        self._tracker.tags(cost_tags(spent) | counts | {"stopped_by": reason})
        unsent = self._tracker.finish(status, round(ended.timestamp() * 1000))
        if unsent is not None:
            self._tell(f"warning: MLflow did not get {', '.join(unsent.others)}; the sweep's folder has all of it")
        self._folder.write(replace(self._file, status=status, reason=reason, ended=ended.isoformat(timespec="seconds")))


def _new(plan: SweepPlan, tell: Callable[[str], None]) -> tuple[SweepFile, Tracker]:
    tracking, sweep = plan.base.recipe.tracking, plan.sweep.sweep
    tags = {FOLDER: plan.folder.root.uri}
    tracker = Tracker.start(tracking.uri, tracking.experiment, sweep.name, tags, tell, tracking.artifacts)
    tracker.params(sweep.model_dump(mode="json", include={"search", "scheduler", "replicas", "objectives", "space"}))
    file = SweepFile(
        name=sweep.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status="RUNNING",
        tracking_uri=tracking.uri,
        mlflow_run_id=tracker.run_id,
        trials=plan.trials,
        samples=plan.base.total_samples,
    )
    return file, tracker


def _resumed(plan: SweepPlan, tell: Callable[[str], None]) -> tuple[SweepFile, Tracker]:
    file = replace(plan.folder.read(), status="RUNNING", ended="", reason="", trials=plan.trials)
    return file, Tracker.resume(file.tracking_uri, file.mlflow_run_id, tell)


def _by_status(trials: Sequence[TrialRecord]) -> dict[str, int]:
    statuses = [record.status for record in trials]
    return {status: statuses.count(status) for status in sorted(set(statuses))}
