"""Ray Tune's schedulers, set up so that trials are compared at equal numbers of samples seen."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from orchestrator.spec.sweep_loading import ResolvedSweep
from orchestrator.sweep.folder import Point
from orchestrator.sweep.proposals import explored
from orchestrator.sweep.results import RUNGS, SAMPLES


class SuccessiveHalving(AsyncHyperBandScheduler):
    """Ray Tune's ASHA (Li et al. 2020), which can be told what it knew before its driver was lost."""

    def recall(self, trial_id: str, points: Sequence[Point]) -> None:
        """Enter what a trial has reported before; it is not stopped for it.

        Args:
            trial_id: its name at Ray Tune, under which it goes on; any other name if it is over.
            points: what it reported, by samples.
        """
        past: Any = SimpleNamespace(trial_id=trial_id)
        sign = 1.0 if self._mode == "max" else -1.0
        for point in points:
            for bracket in self._brackets:
                bracket.on_result(past, point.samples, sign * point.values[0])


def make_scheduler(sweep: ResolvedSweep, samples: int) -> TrialScheduler:
    """Return the scheduler of a sweep.

    Args:
        sweep: the sweep.
        samples: that a whole trial sees.
    """
    options, first = sweep.sweep.scheduler, sweep.sweep.objectives[0]
    goal: dict[str, Any] = {"metric": first.metric, "mode": first.mode}
    match options.kind:
        case "none":
            return FIFOScheduler()
        case "asha":
            return SuccessiveHalving(
                time_attr=SAMPLES,
                max_t=samples,
                grace_period=max(1, round(options.first_rung * samples)),
                reduction_factor=options.reduction,
                stop_last_trials=False,
                **goal,
            )
        case "hyperband":
            return HyperBandScheduler(
                time_attr=RUNGS,
                max_t=max(1, round(1 / options.first_rung)),
                reduction_factor=options.reduction,
                stop_last_trials=False,
                **goal,
            )
    return PopulationBasedTraining(
        time_attr=SAMPLES,
        perturbation_interval=max(1, round(options.exchange_every * samples)),
        custom_explore_fn=lambda config: config | {"assignment": explored(sweep, config["assignment"])},
        quantile_fraction=options.quantile,
        **goal,
    )


def first_rung(sweep: ResolvedSweep, samples: int) -> int:
    """Return the samples after which trials are first compared."""
    options = sweep.sweep.scheduler
    share = options.exchange_every if options.kind == "pbt" else options.first_rung
    return max(1, round(share * samples))
