"""Records a sweep: its own run in MLflow, the files in its folder, and the record of every trial."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ray.tune import Callback
from ray.tune.result import DONE

from orchestrator.config.commands import command_line
from orchestrator.config.errors import FuserayError
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.sweep.folder import Point, SweepFile, SweepFolder, TrialRecord, TrialStatus, store_sweep
from orchestrator.sweep.plan import SweepPlan
from orchestrator.sweep.schedulers import LINEAGE, OUTCOME, REASON, SAMPLES, TRIAL_SPEC, name_of
from orchestrator.track.cost import RunCost, cost_tags
from orchestrator.track.mlflow_errors import TrackingUnavailableError
from orchestrator.track.run_writer import TrackedRun
from orchestrator.track.tracker import Tracker
from orchestrator.train.run_tools import sync

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


FOLDER_TAG = "sweep_folder"
"""MLflow's tag for the URI of the sweep's folder."""


class SweepLogger:
    """Records one start of a sweep in its folder and in MLflow.

    Args:
        folder: the sweep's folder.
        file: the sweep's state.
        tracker: its run in MLflow.
        log: receives messages for the user.
    """

    def __init__(self, folder: SweepFolder, file: SweepFile, tracker: Tracker, log: Callable[[str], None]) -> None:
        self._folder = folder
        self._file = file
        self._tracker = tracker
        self._log = log

    @classmethod
    def open(cls, plan: SweepPlan, log: Callable[[str], None]) -> Self:
        """Create the sweep's folder and MLflow run, or resume those of an earlier start.

        Raises:
            TrackingError: MLflow cannot be reached, or lacks the run to resume; nothing was written.
        """
        file, tracker = _resume(plan, log) if plan.folder.exists() else _create(plan, log)
        store_sweep(plan.folder, plan.sweep)
        plan.folder.write(file)
        for file_location in (plan.folder.spec, plan.folder.recipe):
            tracker.text(file_location.read().decode(), file_location.name)
        return cls(plan.folder, file, tracker, log)

    @property
    def mlflow_run_id(self) -> str:
        """The sweep's own run in MLflow."""
        return self._file.mlflow_run_id

    @property
    def working_folder(self) -> str:
        """The folder that trials run in: where the sweep was first started, the current one when that is not here."""
        folder = self._file.working_folder
        return folder if folder and Path(folder).is_dir() else os.getcwd()

    def close(self, status: str, reason: str, spent: RunCost, trials: Sequence[TrialRecord]) -> None:
        """Record how the sweep ended.

        Args:
            status: FINISHED, FAILED or KILLED.
            reason: why it was stopped before its end; empty otherwise.
            spent: what its machines cost, in all starts.
            trials: the records of its trials.
        """
        ended = datetime.now(UTC)
        counts = {f"trials/{name.lower()}": str(count) for name, count in _by_status(trials).items()}
        self._tracker.tags(cost_tags(spent) | counts | {"stopped_by": reason})
        unsent = self._tracker.finish(status, round(ended.timestamp() * 1000))
        if unsent is not None:
            self._log(f"warning: MLflow did not get {', '.join(unsent.others)}; the sweep's folder has all of it")
        self._folder.write(replace(self._file, status=status, reason=reason, ended=ended.isoformat(timespec="seconds")))

    def abandon(self) -> None:
        """Stop recording and leave the sweep to the driver that took it over."""
        self._tracker.abandon()


def _create(plan: SweepPlan, log: Callable[[str], None]) -> tuple[SweepFile, Tracker]:
    tracking, sweep = plan.base.recipe.tracking, plan.sweep.sweep
    tags = {FOLDER_TAG: plan.folder.root.uri}
    tracker = Tracker.start(tracking.uri, tracking.experiment, sweep.name, tags, log, tracking.artifacts)
    tracker.params(sweep.model_dump(mode="json", include={"search", "scheduler", "replicas", "objectives", "space"}))
    file = SweepFile(
        name=sweep.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status="RUNNING",
        tracking_uri=tracking.uri,
        mlflow_run_id=tracker.run_id,
        trials=plan.trials,
        samples=plan.base.total_samples,
        working_folder=os.getcwd(),
    )
    return file, tracker


def _resume(plan: SweepPlan, log: Callable[[str], None]) -> tuple[SweepFile, Tracker]:
    file = replace(plan.folder.read(), status="RUNNING", ended="", reason="", trials=plan.trials)
    file = replace(file, tracking_uri=plan.base.recipe.tracking.uri)
    return file, Tracker.resume(file.tracking_uri, file.mlflow_run_id, log)


def _by_status(trials: Sequence[TrialRecord]) -> dict[str, int]:
    statuses = [record.status for record in trials]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


STOPPED_EARLY = "stopped early by the scheduler"
LOST = "its process died more often than max_failures allows"


def now_iso() -> str:
    """Return the current time as ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class TrialRecorder(Callback):
    """Ray Tune's callback that updates the sweep's own records, so that Tune's files are not needed afterwards.

    Args:
        trials: the records.
        metrics: names of the objectives.
        clock: returns the time, as ISO 8601.
    """

    def __init__(self, trials: TrialRecords, metrics: Sequence[str], clock: Callable[[], str] = now_iso) -> None:
        self._trials = trials
        self._metrics = metrics
        self._clock = clock

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a trial runs; its assignment may have changed since its last start."""
        record = self._record_of(trial)
        self._trials.update(
            replace(record, status="RUNNING", assignment=trial.config[TRIAL_SPEC]["assignment"], reason="", ended="")
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a report, and that the scheduler stops the trial by it; `on_trial_complete` follows later."""
        lineage = result[LINEAGE]
        record = replace(self._record_of(trial), run=lineage["run"], start=lineage["start"])
        if all(metric in result for metric in self._metrics):
            point = Point(int(result[SAMPLES]), tuple(float(result[metric]) for metric in self._metrics))
            earlier = tuple(other for other in record.points if other.samples < point.samples)
            record = replace(record, points=(*earlier, point))
        if result.get(DONE) and not result.get(OUTCOME):
            record = replace(record, status="STOPPED", reason=STOPPED_EARLY, ended=self._clock())
        self._trials.update(record)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record how a trial ended."""
        result: Mapping[str, Any] = trial.last_result or {}
        if outcome := result.get(OUTCOME):
            self._end(trial, outcome, result[REASON])
        else:
            self._end(trial, "STOPPED", STOPPED_EARLY)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a trial exceeded its maximum number of process failures."""
        message = str(trial.get_error() or LOST).strip().splitlines()
        self._end(trial, "FAILED", message[-1] if message else LOST)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Record which trials the scheduler has paused."""
        for trial in trials:
            if trial.status == "PAUSED" and (record := self._record_of(trial)).status == "RUNNING":
                self._trials.update(replace(record, status="PAUSED"))

    def _record_of(self, trial: Trial) -> TrialRecord:
        record = self._trials.by_name[name_of(trial)]
        return record if record.started else replace(record, started=self._clock())

    def _end(self, trial: Trial, status: TrialStatus, reason: str) -> None:
        self._trials.update(replace(self._record_of(trial), status=status, reason=reason, ended=self._clock()))


def finalize_orphaned_trials(folder: SweepFolder, records: Iterable[TrialRecord], log: Callable[[str], None]) -> None:
    """Record how these runs ended in their folders and in MLflow, and send MLflow all metrics that they have logged.

    Args:
        folder: the sweep's folder.
        records: of its trials.
        log: receives messages for the user.
    """
    mlflow_is_down = False
    for record in records:
        if not record.is_over:
            continue
        run = folder.run(record.run or record.name)
        try:
            file = _mark_ended(run, "FAILED" if record.status == "FAILED" else "KILLED")
            if file is not None and not mlflow_is_down:
                _sync_run(run, file)
        except TrackingUnavailableError as error:
            mlflow_is_down = True
            command = command_line("sync", run.root.uri, endpoint=run.root.endpoint)
            log(f"warning: {error} What it lacks of a trial, `{command}` brings there.")
        except FuserayError as error:
            log(f"warning: {record.name}: {error}")


def _mark_ended(run: RunFolder, status: str) -> RunFile | None:
    """Return a run's state, after setting the status where it was still RUNNING; None when there is no run."""
    if not run.exists():
        return None
    file = run.read()
    if file.status == "RUNNING":
        file = replace(file, status=status, ended=datetime.now(UTC).isoformat(timespec="milliseconds"))
        run.write(file)
    return file


def _sync_run(run: RunFolder, file: RunFile) -> None:
    if TrackedRun(file.tracking_uri, file.mlflow_run_id).status() != file.status:
        sync(run)


ShowTrials = Callable[[Sequence[TrialRecord]], None]


class TrialRecords:
    """The records of all trials, in memory and in the sweep's folder.

    Args:
        folder: the sweep's folder.
        show: receives all records whenever one of them changes.
    """

    def __init__(self, folder: SweepFolder, show: ShowTrials = lambda _: None) -> None:
        self._folder = folder
        self._show = show
        self.by_name = {record.name: record for record in folder.trials()}

    def all(self) -> list[TrialRecord]:
        """Return the records by number and replica."""
        return sorted(self.by_name.values(), key=lambda record: (record.number, record.replica))

    def update(self, record: TrialRecord) -> None:
        """Replace the record of a trial."""
        self.by_name[record.name] = record
        self._folder.write_trial(record)
        self._show(self.all())
