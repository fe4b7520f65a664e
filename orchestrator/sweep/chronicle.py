"""Writes what becomes of every trial into the sweep's folder, while Ray Tune runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from orchestrator.sweep.folder import Point, Status, TrialRecord, trial_name
from orchestrator.sweep.results import FAILED, RUN, SAMPLES, WHOLE
from orchestrator.sweep.trials import Trials

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

STOPPED_EARLY = "stopped early by the scheduler"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Chronicle(Callback):
    """Ray Tune's callback that keeps the sweep's own record; it stays when Tune's files go.

    Args:
        trials: the record.
        metrics: names of the objectives.
        now: the time, as ISO 8601.
    """

    def __init__(self, trials: Trials, metrics: Sequence[str], now: Callable[[], str] = _now) -> None:
        self._trials = trials
        self._metrics = metrics
        self._now = now

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Note that a trial runs; its assignment may be another one than before."""
        record = self._of(trial)
        self._trials.keep(replace(record, status="RUNNING", assignment=trial.config["assignment"], reason="", ended=""))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Note a report, and why a trial failed."""
        record = replace(self._of(trial), run=result.get(RUN, ""))
        if FAILED in result:
            self._trials.keep(replace(record, status="FAILED", reason=result[FAILED]))
            return
        point = Point(int(result[SAMPLES]), tuple(float(result[metric]) for metric in self._metrics))
        before = tuple(one for one in record.points if one.samples < point.samples)
        self._trials.keep(replace(record, points=(*before, point)))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Note how a trial ended."""
        result: Mapping[str, Any] = trial.last_result or {}
        record = self._of(trial)
        if record.status == "FAILED":
            self._end(record, "FAILED", record.reason)
        elif result.get(WHOLE):
            self._end(record, "FINISHED", "")
        else:
            self._end(record, "STOPPED", STOPPED_EARLY)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Note that a trial's process was lost more often than is put up with."""
        said = (str(trial.get_error()) if trial.get_error() else "its process was lost").strip().splitlines()
        self._end(self._of(trial), "FAILED", said[-1] if said else "its process was lost")

    def _of(self, trial: Trial) -> TrialRecord:
        record = self._trials.by_name[trial_name(trial.config["number"], trial.config["replica"])]
        return record if record.started else replace(record, started=self._now())

    def _end(self, record: TrialRecord, status: Status, reason: str) -> None:
        self._trials.keep(replace(record, status=status, reason=reason, ended=self._now()))
