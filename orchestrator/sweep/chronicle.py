"""Writes what becomes of every trial into the sweep's folder, while Ray Tune runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ray.tune import Callback
from ray.tune.result import DONE

from orchestrator.sweep.folder import Point, Status, TrialRecord
from orchestrator.sweep.results import LINEAGE, OUTCOME, REASON, SAMPLES
from orchestrator.sweep.schedulers import GIVEN, name_of
from orchestrator.sweep.trials import Trials

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

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
