"""The books of a sweep: its own run in MLflow and the files in its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from ray.tune import Callback
from ray.tune.result import DONE

from orchestrator.config.errors import FuserayError
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.sweep.folder import Point, Status, SweepFile, SweepFolder, TrialRecord, store_sweep
from orchestrator.sweep.plan import SweepPlan
from orchestrator.sweep.schedulers import GIVEN, LINEAGE, OUTCOME, REASON, SAMPLES, name_of
from orchestrator.track.client import TrackingUnavailableError
from orchestrator.track.cost import RunCost, cost_tags
from orchestrator.track.run_writer import TrackedRun
from orchestrator.track.tracker import Tracker
from orchestrator.train.run_tools import sync

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


FOLDER = "sweep_folder"
"""MLflow's tag for where a sweep is."""


class SweepLogger:
    """Keeps the books of one start of a sweep.

    Args:
        folder: the sweep's folder.
        file: what the sweep remembers.
        tracker: its run in MLflow.
        log: takes messages for the user.
    """

    def __init__(self, folder: SweepFolder, file: SweepFile, tracker: Tracker, log: Callable[[str], None]) -> None:
        self._folder = folder
        self._file = file
        self._tracker = tracker
        self._log = log

    @classmethod
    def open(cls, plan: SweepPlan, log: Callable[[str], None]) -> Self:
        """Begin the books, or go on with those of earlier starts.

        Raises:
            TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was written.
        """
        file, tracker = _resumed(plan, log) if plan.folder.exists() else _new(plan, log)
        store_sweep(plan.folder, plan.sweep)
        plan.folder.write(file)
        for place in (plan.folder.spec, plan.folder.recipe):
            tracker.text(place.read().decode(), place.name)
        return cls(plan.folder, file, tracker, log)

    @property
    def mlflow_run_id(self) -> str:
        """The sweep's own run in MLflow."""
        return self._file.mlflow_run_id

    def close(self, status: str, reason: str, spent: RunCost, trials: Sequence[TrialRecord]) -> None:
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
            self._log(f"warning: MLflow did not get {', '.join(unsent.others)}; the sweep's folder has all of it")
        self._folder.write(replace(self._file, status=status, reason=reason, ended=ended.isoformat(timespec="seconds")))


def _new(plan: SweepPlan, log: Callable[[str], None]) -> tuple[SweepFile, Tracker]:
    tracking, sweep = plan.base.recipe.tracking, plan.sweep.sweep
    tags = {FOLDER: plan.folder.root.uri}
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
    )
    return file, tracker


def _resumed(plan: SweepPlan, log: Callable[[str], None]) -> tuple[SweepFile, Tracker]:
    file = replace(plan.folder.read(), status="RUNNING", ended="", reason="", trials=plan.trials)
    return file, Tracker.resume(file.tracking_uri, file.mlflow_run_id, log)


def _by_status(trials: Sequence[TrialRecord]) -> dict[str, int]:
    statuses = [record.status for record in trials]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


# Writes what becomes of every trial into the sweep's folder, while Ray Tune runs them.


STOPPED_EARLY = "stopped early by the scheduler"
LOST = "its process was lost, again and again"


def now() -> str:
    """Return the time as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Chronicle(Callback):
    """Ray Tune's callback that keeps the sweep's own record; Tune's files are needed by nobody afterwards.

    Args:
        trials: the record.
        metrics: names of the objectives.
        clock: the time, as ISO 8601.
    """

    def __init__(self, trials: Trials, metrics: Sequence[str], clock: Callable[[], str] = now) -> None:
        self._trials = trials
        self._metrics = metrics
        self._clock = clock

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Note that a trial runs; its assignment may be another one than before."""
        record = self._of(trial)
        self._trials.keep(
            replace(record, status="RUNNING", assignment=trial.config[GIVEN]["assignment"], reason="", ended="")
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Note a report, and that the scheduler stops the trial for it: Ray Tune says so once more, but later."""
        lineage = result[LINEAGE]
        record = replace(self._of(trial), run=lineage["run"], start=lineage["start"])
        if all(metric in result for metric in self._metrics):
            point = Point(int(result[SAMPLES]), tuple(float(result[metric]) for metric in self._metrics))
            before = tuple(one for one in record.points if one.samples < point.samples)
            record = replace(record, points=(*before, point))
        if result.get(DONE) and not result.get(OUTCOME):
            record = replace(record, status="STOPPED", reason=STOPPED_EARLY, ended=self._clock())
        self._trials.keep(record)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Note how a trial ended."""
        result: Mapping[str, Any] = trial.last_result or {}
        if outcome := result.get(OUTCOME):
            self._end(trial, outcome, result[REASON])
        else:
            self._end(trial, "STOPPED", STOPPED_EARLY)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Note that a trial's process was lost more often than is put up with."""
        said = str(trial.get_error() or LOST).strip().splitlines()
        self._end(trial, "FAILED", said[-1] if said else LOST)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Note which trials wait for their turn."""
        for trial in trials:
            if trial.status == "PAUSED" and (record := self._of(trial)).status == "RUNNING":
                self._trials.keep(replace(record, status="PAUSED"))

    def _of(self, trial: Trial) -> TrialRecord:
        record = self._trials.by_name[name_of(trial)]
        return record if record.started else replace(record, started=self._clock())

    def _end(self, trial: Trial, status: Status, reason: str) -> None:
        self._trials.keep(replace(self._of(trial), status=status, reason=reason, ended=self._clock()))


# Ends the runs of trials that are over but could not say so: their process had ended, or MLflow was away.


def tidy(folder: SweepFolder, records: Iterable[TrialRecord], log: Callable[[str], None]) -> None:
    """Have MLflow and the runs' folders say how they ended, with all figures that they have logged.

    Args:
        folder: the sweep's folder.
        records: what is known of its trials.
        log: takes messages for the user.
    """
    away = False
    for record in records:
        if not record.is_over:
            continue
        run = folder.run(record.run or record.name)
        try:
            file = _ended(run, "FAILED" if record.status == "FAILED" else "KILLED")
            if file is not None and not away:
                _catch_up(run, file)
        except TrackingUnavailableError as error:
            away = True
            log(f"warning: {error} What it lacks of a trial, `fuseray sync {run.root.uri}` brings there.")
        except FuserayError as error:
            log(f"warning: {record.name}: {error}")


def _ended(run: RunFolder, status: str) -> RunFile | None:
    """Return what a run remembers, with a status where it had not ended; None when there is no run."""
    if not run.exists():
        return None
    file = run.read()
    if file.status == "RUNNING":
        file = replace(file, status=status, ended=datetime.now(UTC).isoformat(timespec="milliseconds"))
        run.write(file)
    return file


def _catch_up(run: RunFolder, file: RunFile) -> None:
    if TrackedRun(file.tracking_uri, file.mlflow_run_id).status() != file.status:
        sync(run)


# The trials of a sweep as its driver knows them; what is known is in the sweep's folder, too.


Show = Callable[[Sequence[TrialRecord]], None]


class Trials:
    """The record of all trials.

    Args:
        folder: the sweep's folder.
        show: told all records whenever one of them changes.
    """

    def __init__(self, folder: SweepFolder, show: Show = lambda _: None) -> None:
        self._folder = folder
        self._show = show
        self.by_name = {record.name: record for record in folder.trials()}

    def all(self) -> list[TrialRecord]:
        """Return the records by number and replica."""
        return sorted(self.by_name.values(), key=lambda one: (one.number, one.replica))

    def keep(self, record: TrialRecord) -> None:
        """Take a record in place of what was known of the trial."""
        self.by_name[record.name] = record
        self._folder.keep(record)
        self._show(self.all())
