"""Runs a sweep's trials with Ray Tune: its configuration, and the searcher that gives it the trials."""

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
from orchestrator.sweep.sampler import ObservedTrial, configuration_count, draw_random, grid, propose_tpe
from orchestrator.sweep.schedulers import RE_REPORTING, TRIAL_SPEC, make_scheduler
from orchestrator.sweep.sweep_logger import TrialRecorder, TrialRecords
from orchestrator.sweep.trial import Lineage, SweepContext, SweepTrial

MAX_PROCESS_FAILURES = 8
"""Ray Tune's `max_failures`: how often the process that drives a trial may die before the trial has failed."""

RESOURCE_GRANULARITY = 10_000
"""Ray counts fractional resources in steps of 1/10,000."""

SYNCHRONOUS = ("hyperband", "pbt")
"""Schedulers that compare trials which wait for each other, so that Ray Tune needs all of them from the start."""

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metrics
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1000000",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def tune_trials(
    context: SweepContext, trials: TrialRecords, samples: int, concurrent: int, ended: Callable[[], bool]
) -> None:
    """Run the trials of a sweep that are not over, and record them.

    The processes that drive trials run on this machine, each with a share of its `node:` resource, so that no more of
    them run than fit. Ray Tune's own files are deleted when this returns.

    Args:
        context: what all trials share.
        trials: the records.
        samples: of a trial that is trained to the end.
        concurrent: trials that run at a time.
        ended: returns whether no further trial may start.
    """
    os.environ.update(TUNE_ENVIRONMENT)
    kind = context.sweep.sweep.scheduler.kind
    scheduler = make_scheduler(context.sweep, samples, trials.all())
    search = SweepSearch(context.sweep, trials, kind in RE_REPORTING, ended)
    with TemporaryDirectory(prefix="fuseray-tune-") as files:
        tune.run(
            tune.with_parameters(SweepTrial, context=context),
            name="tune",
            storage_path=files,
            resources_per_trial=_share_of_this_machine(concurrent),
            scheduler=scheduler,
            callbacks=[TrialRecorder(trials, context.metrics)],
            max_failures=MAX_PROCESS_FAILURES,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            raise_on_failed_trial=False,
            verbose=0,
            **(_all_trials_at_once(search) if kind in SYNCHRONOUS else _trials_on_demand(search, concurrent)),
        )


def _trials_on_demand(search: SweepSearch, concurrent: int) -> dict[str, Any]:
    """Return `tune.run`'s options where the searcher is asked for a trial whenever one can start."""
    return {"search_alg": search, "num_samples": -1, "max_concurrent_trials": concurrent}


def _all_trials_at_once(search: SweepSearch) -> dict[str, Any]:
    """Return `tune.run`'s options where Tune gets all trials at once; those that do not fit wait."""
    return {"config": {TRIAL_SPEC: tune.grid_search(list(iter(search.next, None)))}}


def _share_of_this_machine(concurrent: int) -> tune.PlacementGroupFactory:
    here = f"node:{ray.util.get_node_ip_address()}"
    return tune.PlacementGroupFactory([{here: (RESOURCE_GRANULARITY // concurrent) / RESOURCE_GRANULARITY}])


def _name(trial: tune.experiment.Trial) -> str:
    return str(trial.trial_id)


class SweepSearch(Searcher):
    """Ray Tune's searcher over a sweep: first unfinished trials, then new ones, each configuration once per replica.

    Its only state is the sweep's own records of its trials.

    Args:
        sweep: the sweep.
        trials: the records of its trials.
        replay: whether resumed trials repeat their reports of earlier starts.
        ended: returns whether no further trial may start.
    """

    def __init__(
        self,
        sweep: ResolvedSweep,
        trials: TrialRecords,
        replay: bool = False,
        ended: Callable[[], bool] = lambda: False,
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
        """Return the next trial's configuration, or that there is none left."""
        trial_spec = self.next()
        return Searcher.FINISHED if trial_spec is None else {TRIAL_SPEC: trial_spec}

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
        """Do nothing: the records hold it."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the records are the state."""

    def _lineage(self, record: TrialRecord) -> Lineage:
        reported = record.points[-1].samples if record.points and not self._replay else 0
        return Lineage(record.run or record.name, reported, record.start)

    def _new(self) -> TrialRecord | None:
        known = self._trials.by_name
        for number in range(configuration_count(self._sweep)):
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
        return propose_tpe(self._sweep, number, observed_trials(self._trials.all()))


def observed_trials(records: Sequence[TrialRecord]) -> list[ObservedTrial]:
    """Return the configurations with their objectives, means over the replicas that were trained or stopped early."""
    observed = []
    for number in sorted({record.number for record in records}):
        replicas = [record for record in records if record.number == number]
        ended = [record for record in replicas if record.status in ("FINISHED", "STOPPED") and record.points]
        stopped = [record.points[-1].samples for record in ended if record.status == "STOPPED"]
        values = tuple(fmean(column) for column in zip(*(record.points[-1].values for record in ended), strict=True))
        observed.append(ObservedTrial(number, replicas[0].assignment, values, min(stopped, default=None)))
    return observed
