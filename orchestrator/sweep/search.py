"""Gives Ray Tune the trials: first those that were under way, then new ones, each configuration once per replica."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from ray.tune.search import Searcher

from orchestrator.config.sweep import Assignment, ResolvedSweep
from orchestrator.sweep.folder import TrialRecord, trial_name
from orchestrator.sweep.lineage import Lineage
from orchestrator.sweep.proposals import Told, configurations, drawn, estimated, grid
from orchestrator.sweep.schedulers import GIVEN
from orchestrator.sweep.trials import Trials


class SweepSearch(Searcher):
    """Ray Tune's searcher over a sweep. All that it knows is the sweep's own record of its trials.

    Args:
        sweep: the sweep.
        trials: its trials so far.
        replay: whether trials that go on report again what they have reported in earlier starts.
        ended: whether no further trial is to start.
    """

    def __init__(
        self, sweep: ResolvedSweep, trials: Trials, replay: bool = False, ended: Callable[[], bool] = lambda: False
    ) -> None:
        first = sweep.sweep.objectives[0]
        super().__init__(metric=first.metric, mode=first.mode)
        self._sweep = sweep
        self._trials = trials
        self._replay = replay
        self._ended = ended
        self._grid = grid(sweep) if sweep.sweep.search.method == "grid" else ()
        self._waiting = [record for record in trials.all() if not record.is_over]

    def suggest(self, trial_id: str) -> Any:
        """Return what a trial is given, or that there is none left."""
        given = self.next()
        return Searcher.FINISHED if given is None else {GIVEN: given}

    def next(self) -> dict[str, Any] | None:
        """Return a trial's number, replica, assignment and run; None when there is none left."""
        record = None if self._ended() else self._waiting.pop(0) if self._waiting else self._new()
        if record is None:
            return None
        self._trials.keep(record)
        return {
            "number": record.number,
            "replica": record.replica,
            "assignment": dict(record.assignment),
            "lineage": asdict(self._lineage(record)),
        }

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the record knows it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the record is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the record is the state."""

    def _lineage(self, record: TrialRecord) -> Lineage:
        reported = record.points[-1].samples if record.points and not self._replay else 0
        return Lineage(record.run or record.name, reported, record.start)

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
