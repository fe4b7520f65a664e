"""A trial's run in a thread of its own, and what it reports to the sweep."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.storage.run_folder import RunFolder
from orchestrator.sweep.folder import TrialStatus, SweepError
from orchestrator.sweep.validate import EVALUATED
from orchestrator.track.metric_log import read_metric_log
from orchestrator.train.control_channel import Record, RunObserver
from orchestrator.train.driver import Outcome

LOG = logging.getLogger("ray.train")
"""Goes into the trial's log."""

END_S = 600.0
"""How long a run may take to stop with a checkpoint."""

LISTEN_EVERY_S = 0.5

Train = Callable[[RunObserver, threading.Event], Outcome]
"""Trains with a display until done, or until the event asks to stop."""


class TrialRun:
    """Runs a trial's training in a thread.

    Args:
        train: trains.
        reports: which steps are reported.
        samples: that the whole run sees.
        before: reports that were made before this start, by samples.
        seen: samples up to which the sweep knows them.
        done: whether the run has ended before, so that there is nothing left to train.
        listen_every_s: seconds between two looks whether it is to stop.
    """

    def __init__(
        self,
        train: Train,
        reports: ReportSchedule,
        samples: int,
        before: Sequence[TrialReport] = (),
        seen: int = 0,
        done: bool = False,
        listen_every_s: float = LISTEN_EVERY_S,
    ) -> None:
        self._train = train
        self._reports = reports
        self._samples = samples
        self._listen_every_s = listen_every_s
        self._queue: queue.Queue[TrialReport | Exception] = queue.Queue()
        self._last = before[-1] if before else None
        self._seen = seen
        self._interrupted = threading.Event()
        for report in before:
            if seen < report.samples < samples:
                self._queue.put(report)
        if done:
            self._queue.put(self._whole())
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
        if not done:
            self._thread.start()

    def next(self, asked_to_stop: Callable[[], str]) -> TrialReport:
        """Wait for the next report and return it; the last one says how the run ended.

        Args:
            asked_to_stop: why the run is to stop with a checkpoint; empty while it is not.

        Raises:
            Exception: the run failed; the message says why.
        """
        asked = ""
        while True:
            try:
                found = self._queue.get(timeout=self._listen_every_s)
            except queue.Empty:
                asked = asked or asked_to_stop()
                if asked:
                    self._interrupted.set()
                continue
            if isinstance(found, Exception):
                raise found
            return found.with_reason(asked)

    def end(self) -> None:
        """Stop the run with a checkpoint, if it still runs."""
        self._interrupted.set()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def log(self, text: str) -> None:
        """Write a message for people into the trial's log."""
        LOG.warning("%s", text)

    def step(self, record: Record, skipped: int) -> None:
        """Take in a step that is done."""
        report = self._reports.of(record.step, record.metrics)
        if report is None or (self._last is not None and report.samples <= self._last.samples):
            return
        self._last = report
        if self._seen < report.samples < self._samples:
            self._queue.put(report)

    def _run(self) -> None:
        try:
            outcome = self._train(self, self._interrupted)
        except Exception as error:
            self._queue.put(error)
            return
        self._queue.put(self._whole() if outcome.status == "FINISHED" else self._cut_short(outcome.stopped_by))

    def _whole(self) -> TrialReport | Exception:
        if self._last is None:
            return SweepError(f"objectives: no step of the run had the figures {', '.join(self._reports.metrics)}.")
        return TrialReport(self._samples, self._last.values, "FINISHED")

    def _cut_short(self, stopped_by: str) -> TrialReport:
        last = self._last or TrialReport(0, ())
        return TrialReport(last.samples, last.values, "STOPPED" if stopped_by else "PAUSED", stopped_by)


# Which steps of a trial's run are reported to the sweep.


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What a trial has come to.

    Args:
        samples: that it has seen.
        values: of the objectives; empty when it had none yet.
        outcome: how the run ended; None while it goes on.
        reason: why it was stopped; empty otherwise.
    """

    samples: int
    values: tuple[float, ...]
    outcome: TrialStatus | None = None
    reason: str = ""

    def with_reason(self, reason: str) -> TrialReport:
        """Return it with the reason why the run was asked to stop, if that is how it ended."""
        return replace(self, reason=reason) if self.outcome == "PAUSED" else self


class ReportSchedule:
    """The steps that are reported: those that have every objective, and of these not more than one in `every` steps.

    Args:
        metrics: names of the objectives.
        samples_per_step: the recipe's batch.
        steps: of the whole run.
        every: steps from report to report; evaluated figures are all reported.
    """

    def __init__(self, metrics: Sequence[str], samples_per_step: int, steps: int, every: int) -> None:
        self.metrics = metrics
        self._samples_per_step = samples_per_step
        self._steps = steps
        self._every = every

    def of(self, step: int, metrics: Mapping[str, float]) -> TrialReport | None:
        """Return the report of a step, None when there is none."""
        if not all(name in metrics for name in self.metrics):
            return None
        done = step + 1
        evaluated = any(name.startswith(EVALUATED) for name in self.metrics)
        if done != self._steps and not evaluated and done % self._every:
            return None
        return TrialReport(done * self._samples_per_step, tuple(float(metrics[name]) for name in self.metrics))


def earlier_reports(run: RunFolder, reports: ReportSchedule) -> list[TrialReport]:
    """Return what a run has reported in earlier starts, by samples, from its own metric log."""
    lines = read_metric_log(run.metrics) if run.exists() else ()
    found = (reports.of(line.step, line.metrics) for line in lines)
    return [report for report in found if report is not None]
