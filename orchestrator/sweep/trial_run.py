"""A trial's run in a thread of its own, and what it reports to the sweep."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.storage.run_folder import RunFolder
from orchestrator.sweep.folder import SweepError
from orchestrator.track.metric_log import read_metric_log
from orchestrator.train.channel import Record
from orchestrator.train.display import Display
from orchestrator.train.driving import Outcome

END_S = 600.0
"""How long a run may take to stop with a checkpoint."""

EVALUATED = "held_out/"
"""How the names of figures begin that only evaluated steps have."""

Train = Callable[[Display, threading.Event], Outcome]
"""Trains with a display until done, or until the event asks to stop."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a trial has come to.

    Args:
        samples: that it has seen.
        values: of the objectives.
        whole: whether it has come to its end.
    """

    samples: int
    values: tuple[float, ...]
    whole: bool = False


class Reports:
    """The steps that are reported: those that have every objective, and of these not more than one in `every` steps.

    Args:
        metrics: names of the objectives.
        samples_per_step: the recipe's batch.
        steps: of the whole run.
        every: steps from report to report.
    """

    def __init__(self, metrics: Sequence[str], samples_per_step: int, steps: int, every: int) -> None:
        self.metrics = metrics
        self._samples_per_step = samples_per_step
        self._steps = steps
        self._every = every

    def of(self, step: int, metrics: Mapping[str, float]) -> Report | None:
        """Return the report of a step, None when there is none."""
        if not all(name in metrics for name in self.metrics):
            return None
        done = step + 1
        evaluated = any(name.startswith(EVALUATED) for name in self.metrics)
        if done != self._steps and not evaluated and done % self._every:
            return None
        return Report(done * self._samples_per_step, tuple(float(metrics[name]) for name in self.metrics))


def earlier_reports(run: RunFolder, reports: Reports) -> list[Report]:
    """Return what a run has reported in earlier starts, by samples, from its own metric log."""
    lines = read_metric_log(run.metrics) if run.exists() else ()
    found = (reports.of(line.step, line.metrics) for line in lines)
    return [report for report in found if report is not None]


class TrialRun:
    """Runs a trial's training in a thread.

    Args:
        train: trains.
        reports: which steps are reported.
        samples: that the whole run sees.
        before: reports that were made before this start, by samples.
        seen: samples up to which the sweep knows them.
        done: whether the run has ended before, so that there is nothing left to train.
    """

    def __init__(
        self, train: Train, reports: Reports, samples: int, before: Sequence[Report], seen: int, done: bool = False
    ) -> None:
        self._train = train
        self._reports = reports
        self._samples = samples
        self._queue: queue.Queue[Report | Exception] = queue.Queue()
        self._last = before[-1] if before else None
        self._interrupted = threading.Event()
        for report in before:
            if seen < report.samples < samples:
                self._queue.put(report)
        if done:
            self._queue.put(self._whole())
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
        if not done:
            self._thread.start()

    def next(self) -> Report:
        """Wait for the next report and return it.

        Raises:
            FuserayError: the run failed; the message says why.
        """
        found = self._queue.get()
        if isinstance(found, Exception):
            raise found
        return found

    def end(self) -> None:
        """Stop the run with a checkpoint, if it still runs."""
        self._interrupted.set()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def message(self, text: str) -> None:
        """Take a message for people; the run's own log and MLflow have what matters of it."""

    def step(self, record: Record, skipped: int) -> None:
        """Take in a step that is done."""
        report = self._reports.of(record.step, record.metrics)
        if report is None or (self._last is not None and report.samples <= self._last.samples):
            return
        self._last = report
        if report.samples < self._samples:
            self._queue.put(report)

    def _run(self) -> None:
        try:
            outcome = self._train(self, self._interrupted)
        except Exception as error:
            self._queue.put(error)
            return
        if outcome.status == "FINISHED":
            self._queue.put(self._whole())

    def _whole(self) -> Report | Exception:
        if self._last is None:
            return SweepError(f"objectives: no step of the run had the figures {', '.join(self._reports.metrics)}.")
        return Report(self._samples, self._last.values, whole=True)
