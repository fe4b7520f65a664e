"""Ray Tune, set up for a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray import tune

from orchestrator.sweep.chronicle import Chronicle
from orchestrator.sweep.schedulers import GIVEN, REPLAYED, make_scheduler
from orchestrator.sweep.search import SweepSearch
from orchestrator.sweep.trial import Shared, SweepTrial
from orchestrator.sweep.trials import Trials

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


def tune_trials(shared: Shared, trials: Trials, samples: int, side_by_side: int, ended: Callable[[], bool]) -> None:
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
    search = SweepSearch(shared.sweep, trials, kind in REPLAYED, ended)
    with TemporaryDirectory(prefix="fuseray-tune-") as files:
        tune.run(
            tune.with_parameters(SweepTrial, shared=shared),
            name="tune",
            storage_path=files,
            resources_per_trial=_share_of_this_machine(side_by_side),
            scheduler=scheduler,
            callbacks=[Chronicle(trials, shared.metrics)],
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
    return {"config": {GIVEN: tune.grid_search(list(iter(search.next, None)))}}


def _share_of_this_machine(side_by_side: int) -> tune.PlacementGroupFactory:
    here = f"node:{ray.util.get_node_ip_address()}"
    return tune.PlacementGroupFactory([{here: (PARTS // side_by_side) / PARTS}])


def _name(trial: tune.experiment.Trial) -> str:
    return str(trial.trial_id)
