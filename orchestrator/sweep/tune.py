"""Ray Tune, set up for a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from orchestrator.config.sweep import Assignment, ResolvedSweep
from orchestrator.sweep.folder import TrialRecord, trial_name
from orchestrator.sweep.sampler import ObservedTrial, configurations, draw_random, propose_tpe, grid
from orchestrator.sweep.schedulers import TRIAL_SPEC, RE_REPORTING, make_scheduler
from orchestrator.sweep.sweep_logger import TrialRecorder, TrialRecords
from orchestrator.sweep.trial import Lineage, SweepContext, SweepTrial

LOST_PROCESSES = 8
"""How often the process that drives a trial may be lost before the trial counts as failed."""

PARTS = 10_000
"""Ray counts resources in so many parts."""

TAKING_TURNS = ("hyperband", "pbt")
"""Schedulers that compare trials which all wait for each other."""

VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no figures
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1000000",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def tune_trials(shared: SweepContext, trials: TrialRecords, samples: int, side_by_side: int, ended: Callable[[], bool]) -> None:
    """Run the trials of a sweep that are not over; what becomes of them is in the record.

    The processes that drive trials stay on this machine, which every trial needs anyway, and of which each takes a
    share, so that not more of them run than there is room for. Tune's own files go when this returns.

    Args:
        shared: what all trials have in common.
        trials: the record.
        samples: that a whole trial sees.
        side_by_side: how many trials run at a time.
        ended: whether no further trial is to start.
    """
    os.environ.update(VARIABLES)
    kind = shared.sweep.sweep.scheduler.kind
    scheduler = make_scheduler(shared.sweep, samples, trials.all())
    search = SweepSearch(shared.sweep, trials, kind in RE_REPORTING, ended)
    with TemporaryDirectory(prefix="fuseray-tune-") as files:
        tune.run(
            tune.with_parameters(SweepTrial, shared=shared),
            name="tune",
            storage_path=files,
            resources_per_trial=_share_of_this_machine(side_by_side),
            scheduler=scheduler,
            callbacks=[TrialRecorder(trials, shared.metrics)],
            max_failures=LOST_PROCESSES,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            raise_on_failed_trial=False,
            verbose=0,
            **(_all_at_once(search) if kind in TAKING_TURNS else _one_by_one(search, side_by_side)),
        )


def _one_by_one(search: SweepSearch, side_by_side: int) -> dict[str, Any]:
    """Return how trials come to be when the search is asked for one whenever there is room."""
    return {"search_alg": search, "num_samples": -1, "max_concurrent_trials": side_by_side}


def _all_at_once(search: SweepSearch) -> dict[str, Any]:
    """Return all trials at once; as many run as there is room for, and the others wait for their turn."""
    return {"config": {TRIAL_SPEC: tune.grid_search(list(iter(search.next, None)))}}


def _share_of_this_machine(side_by_side: int) -> tune.PlacementGroupFactory:
    here = f"node:{ray.util.get_node_ip_address()}"
    return tune.PlacementGroupFactory([{here: (PARTS // side_by_side) / PARTS}])


def _name(trial: tune.experiment.Trial) -> str:
    return str(trial.trial_id)


# Gives Ray Tune the trials: first those that were under way, then new ones, each configuration once per replica.


class SweepSearch(Searcher):
    """Ray Tune's searcher over a sweep. All that it knows is the sweep's own record of its trials.

    Args:
        sweep: the sweep.
        trials: its trials so far.
        replay: whether trials that go on report again what they have reported in earlier starts.
        ended: whether no further trial is to start.
    """

    def __init__(
        self, sweep: ResolvedSweep, trials: TrialRecords, replay: bool = False, ended: Callable[[], bool] = lambda: False
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
        return Searcher.FINISHED if given is None else {TRIAL_SPEC: given}

    def next(self) -> dict[str, Any] | None:
        """Return a trial's number, replica, assignment and run; None when there is none left."""
        record = None if self._ended() else self._waiting.pop(0) if self._waiting else self._new()
        if record is None:
            return None
        self._trials.update(record)
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
                return draw_random(self._sweep, number)
        return propose_tpe(self._sweep, number, told(self._trials.all()))


def told(records: Sequence[TrialRecord]) -> list[ObservedTrial]:
    """Return what configurations have come to, means over the replicas that have ended well."""
    found = []
    for number in sorted({record.number for record in records}):
        replicas = [record for record in records if record.number == number]
        ended = [record for record in replicas if record.status in ("FINISHED", "STOPPED") and record.points]
        stopped = [record.points[-1].samples for record in ended if record.status == "STOPPED"]
        values = tuple(fmean(one) for one in zip(*(record.points[-1].values for record in ended), strict=True))
        found.append(ObservedTrial(number, replicas[0].assignment, values, min(stopped, default=None)))
    return found
