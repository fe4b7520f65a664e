"""Gives Ray Tune the trials: first those that were under way, then new ones, each configuration once per replica."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ray.tune.search import Searcher

from orchestrator.spec.sweep_loading import Assignment, ResolvedSweep
from orchestrator.sweep.folder import Point, TrialRecord, trial_name
from orchestrator.sweep.proposals import Told, configurations, drawn, estimated, grid
from orchestrator.sweep.trials import Trials

Recall = Callable[[str, Sequence[Point]], object]
"""Told what a trial reported in an earlier start of the sweep, by its name at Ray Tune."""


class SweepSearch(Searcher):
    """Ray Tune's searcher over a sweep. All that it knows is the sweep's own record of its trials.

    Args:
        sweep: the sweep.
        trials: its trials so far.
        recall: told what trials have reported in earlier starts, before they go on.
    """

    def __init__(self, sweep: ResolvedSweep, trials: Trials, recall: Recall) -> None:
        first = sweep.sweep.objectives[0]
        super().__init__(metric=first.metric, mode=first.mode)
        self._sweep = sweep
        self._trials = trials
        self._recall = recall
        self._grid = grid(sweep) if sweep.sweep.search.method == "grid" else ()
        self._waiting = [record for record in trials.all() if not record.is_over]

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's number, replica and assignment, or that there is none left."""
        record = self._waiting.pop(0) if self._waiting else self._new()
        if record is None:
            return Searcher.FINISHED
        self._recall(trial_id, record.points)
        self._trials.keep(record)
        return {"number": record.number, "replica": record.replica, "assignment": dict(record.assignment)}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the record knows it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the record is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the record is the state."""

    def _new(self) -> TrialRecord | None:
        known = self._trials.by_name
        for number in range(configurations(self._sweep)):
            for replica in range(self._sweep.sweep.replicas):
                if trial_name(number, replica) not in known:
                    assignment = self._assignment(number)
                    return TrialRecord(number=number, replica=replica, assignment=assignment, status="RUNNING")
        return None

    def _assignment(self, number: int) -> Assignment:
        for record in self._trials.all():
            if record.number == number:
                return record.assignment
        match self._sweep.sweep.search.method:
            case "grid":
                return self._grid[number]
            case "random":
                return drawn(self._sweep, number)
        return estimated(self._sweep, number, told(self._trials.all()))


def told(records: Sequence[TrialRecord]) -> list[Told]:
    """Return what configurations have come to, means over the replicas that have ended well."""
    found = []
    for number in sorted({record.number for record in records}):
        replicas = [record for record in records if record.number == number]
        ended = [record for record in replicas if record.status in ("FINISHED", "STOPPED") and record.points]
        stopped = [record.points[-1].samples for record in ended if record.status == "STOPPED"]
        values = tuple(fmean(one) for one in zip(*(record.points[-1].values for record in ended), strict=True))
        found.append(Told(number, replicas[0].assignment, values, min(stopped, default=None)))
    return found
