"""Which steps of a trial's run are reported to the sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.storage.run_folder import RunFolder
from orchestrator.sweep.checking_objectives import EVALUATED
from orchestrator.sweep.folder import Status
from orchestrator.track.metric_log import read_metric_log


@dataclass(frozen=True, slots=True)
class Report:
    """What a trial has come to.

    Args:
        samples: that it has seen.
        values: of the objectives; empty when it had none yet.
        outcome: how the run ended; None while it goes on.
        reason: why it was stopped; empty otherwise.
    """

    samples: int
    values: tuple[float, ...]
    outcome: Status | None = None
    reason: str = ""

    def because(self, reason: str) -> Report:
        """Return it with the reason why the run was asked to stop, if that is how it ended."""
        return replace(self, reason=reason) if self.outcome == "PAUSED" else self


class Reports:
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
