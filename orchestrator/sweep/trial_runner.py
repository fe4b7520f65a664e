"""Runs a trial's training in a thread, and reports its objectives to the sweep."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.storage.run_folder import RunFolder
from orchestrator.sweep.folder import SweepError, TrialStatus
from orchestrator.sweep.validate import EVALUATED
from orchestrator.track.metric_log import read_metric_log
from orchestrator.train.control_channel import RunObserver, StepRecord
from orchestrator.train.driver import Outcome

LOG = logging.getLogger("ray.train")
"""Writes into the trial's log."""

STOP_TIMEOUT_S = 600.0
"""How long `TrialRun.end` waits for the run to stop with a checkpoint, in seconds."""

POLL_INTERVAL_S = 0.5

Train = Callable[[RunObserver, threading.Event], Outcome]
"""Trains until done, or until the event is set; the observer gets its messages and steps."""


class TrialRun:
    """Runs a trial's training in a thread, and observes its steps to report the objectives.

    Args:
        train: trains.
        reports: which steps are reported.
        samples: of the whole run.
        earlier: reports of earlier starts, by samples.
        reported_samples: samples up to which the sweep has received reports.
        done: whether the run ended in an earlier start, so that there is nothing left to train.
        poll_interval_s: seconds between two checks whether the sweep stops.
    """

    def __init__(
        self,
        train: Train,
        reports: ReportSchedule,
        samples: int,
        earlier: Sequence[TrialReport] = (),
        reported_samples: int = 0,
        done: bool = False,
        poll_interval_s: float = POLL_INTERVAL_S,
    ) -> None:
        self._train = train
        self._reports = reports
        self._samples = samples
        self._poll_interval_s = poll_interval_s
        self._queue: queue.Queue[TrialReport | Exception] = queue.Queue()
        self._last = earlier[-1] if earlier else None
        self._reported_samples = reported_samples
        self._interrupted = threading.Event()
        for report in earlier:
            if reported_samples < report.samples < samples:
                self._queue.put(report)
        if done:
            self._queue.put(self._final_report())
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
        if not done:
            self._thread.start()

    def next(self, stop_reason: Callable[[], str]) -> TrialReport:
        """Wait for the next report and return it; the last one says how the run ended.

        Args:
            stop_reason: returns why the run has to stop with a checkpoint; empty while it may continue.

        Raises:
            Exception: the run failed; the message says why.
        """
        reason = ""
        while True:
            try:
                report = self._queue.get(timeout=self._poll_interval_s)
            except queue.Empty:
                reason = reason or stop_reason()
                if reason:
                    self._interrupted.set()
                continue
            if isinstance(report, Exception):
                raise report
            return report.with_reason(reason)

    def end(self) -> None:
        """Stop the run with a checkpoint, if it still runs; wait for it."""
        self._interrupted.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def log(self, text: str) -> None:
        """Write a message into the trial's log."""
        LOG.warning("%s", text)

    def step(self, record: StepRecord, skipped: int) -> None:
        """Queue the report of a finished step, if it has one."""
        report = self._reports.report_of(record.step, record.metrics)
        if report is None or (self._last is not None and report.samples <= self._last.samples):
            return
        self._last = report
        if self._reported_samples < report.samples < self._samples:
            self._queue.put(report)

    def _run(self) -> None:
        try:
            outcome = self._train(self, self._interrupted)
        except Exception as error:
            self._queue.put(error)
            return
        self._queue.put(
            self._final_report() if outcome.status == "FINISHED" else self._interrupted_report(outcome.stopped_by)
        )

    def _final_report(self) -> TrialReport | Exception:
        if self._last is None:
            return SweepError(f"objectives: no step of the run had the metrics {', '.join(self._reports.metrics)}.")
        return TrialReport(self._samples, self._last.values, "FINISHED")

    def _interrupted_report(self, stopped_by: str) -> TrialReport:
        last = self._last or TrialReport(0, ())
        return TrialReport(last.samples, last.values, "STOPPED" if stopped_by else "PAUSED", stopped_by)


@dataclass(frozen=True, slots=True)
class TrialReport:
    """The objectives of a trial after some samples.

    Args:
        samples: seen so far.
        values: of the objectives; empty when it has none yet.
        outcome: how the run ended; None while it runs.
        reason: why it was stopped; empty otherwise.
    """

    samples: int
    values: tuple[float, ...]
    outcome: TrialStatus | None = None
    reason: str = ""

    def with_reason(self, reason: str) -> TrialReport:
        """Return the report with the reason for stopping the run, if the run ended by that."""
        return replace(self, reason=reason) if self.outcome == "PAUSED" else self


class ReportSchedule:
    """Decides which steps are reported: those that have every objective, and of these at most one in `every` steps.

    Args:
        metrics: names of the objectives.
        samples_per_step: the recipe's batch.
        steps: of the whole run.
        every: steps between two reports; objectives of held-out samples are always reported.
    """

    def __init__(self, metrics: Sequence[str], samples_per_step: int, steps: int, every: int) -> None:
        self.metrics = metrics
        self._samples_per_step = samples_per_step
        self._steps = steps
        self._every = every

    def report_of(self, step: int, metrics: Mapping[str, float]) -> TrialReport | None:
        """Return the report of a step; None when it is not reported."""
        if not all(name in metrics for name in self.metrics):
            return None
        done = step + 1
        evaluated = any(name.startswith(EVALUATED) for name in self.metrics)
        if done != self._steps and not evaluated and done % self._every:
            return None
        return TrialReport(done * self._samples_per_step, tuple(float(metrics[name]) for name in self.metrics))


def earlier_reports(run: RunFolder, reports: ReportSchedule) -> list[TrialReport]:
    """Return the reports of a run in earlier starts, by samples, from its own metric log."""
    lines = read_metric_log(run.metrics) if run.exists() else ()
    logged = (reports.report_of(line.step, line.metrics) for line in lines)
    return [report for report in logged if report is not None]
