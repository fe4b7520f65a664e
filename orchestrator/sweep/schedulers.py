"""Ray Tune's schedulers, set up so that trials are compared at equal numbers of samples seen."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.folder import Point, TrialRecord, trial_name
from orchestrator.sweep.rungs import first_rung, hyperband_units
from orchestrator.sweep.sampler import perturbed

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


TRIAL_SPEC = "given"
"""The only key of a trial's configuration in Ray Tune: its value holds number, replica, assignment and lineage."""

RE_REPORTING = ("hyperband",)
"""Schedulers without memory of earlier starts: resumed trials repeat their reports."""


class SuccessiveHalving(AsyncHyperBandScheduler):
    """Ray Tune's ASHA (Li et al. 2020), restored from the reports of earlier starts.

    A resumed trial is not stopped for what it reported before.

    Args:
        past: the records of trials of earlier starts.
        options: of Ray Tune's scheduler.
    """

    def __init__(self, past: Sequence[TrialRecord], **options: Any) -> None:
        super().__init__(**options)
        self._past = {record.name: record.points for record in past}
        for record in past:
            if record.is_over:
                self._enter(record.name, record.points)

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Add a trial, with its earlier reports."""
        super().on_trial_add(tune_controller, trial)
        self._enter(trial.trial_id, self._past.get(name_of(trial), ()))

    def _enter(self, trial_id: str, points: Sequence[Point]) -> None:
        past: Any = SimpleNamespace(trial_id=trial_id)
        sign = 1.0 if self._mode == "max" else -1.0
        for point in points:
            for bracket in self._brackets:
                bracket.on_result(past, point.samples, sign * point.values[0])


class Population(PopulationBasedTraining):
    """Ray Tune's PBT (Jaderberg et al. 2017), restored from the reports of earlier starts.

    Args:
        sweep: the sweep.
        past: the records of trials of earlier starts.
        interval: samples between two exchanges of checkpoints.
        options: of Ray Tune's scheduler.
    """

    def __init__(self, sweep: ResolvedSweep, past: Sequence[TrialRecord], interval: int, **options: Any) -> None:
        super().__init__(perturbation_interval=interval, custom_explore_fn=dict, **options)  # Ray requires one
        self._sweep = sweep
        self._past = {record.name: record.points for record in past}
        self._interval = interval

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Add a trial, with its earlier reports."""
        super().on_trial_add(tune_controller, trial)
        if points := self._past.get(name_of(trial)):
            state, samples = self._trial_state[trial], points[-1].samples
            state.last_train_time = samples
            state.last_perturbation_time = samples - samples % self._interval

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the configuration of a trial that takes over another's checkpoint: the other's values, perturbed."""
        trial_spec, source = trial.config[TRIAL_SPEC], trial_to_clone.config[TRIAL_SPEC]["assignment"]
        return {TRIAL_SPEC: trial_spec | {"assignment": perturbed(self._sweep, source, name_of(trial))}}, {}


def make_scheduler(sweep: ResolvedSweep, samples: int, past: Sequence[TrialRecord] = ()) -> TrialScheduler:
    """Return the scheduler of a sweep.

    Args:
        sweep: the sweep.
        samples: of a trial that is trained to the end.
        past: the records of trials of earlier starts.
    """
    options, first = sweep.sweep.scheduler, sweep.sweep.objectives[0]
    goal: dict[str, Any] = {"metric": first.metric, "mode": first.mode}
    match options.kind:
        case "none":
            return FIFOScheduler()
        case "asha":
            return SuccessiveHalving(
                past,
                time_attr=SAMPLES,
                max_t=samples,
                grace_period=first_rung(options, samples),
                reduction_factor=options.reduction,
                stop_last_trials=False,
                **goal,
            )
        case "hyperband":
            return HyperBandScheduler(
                time_attr=RUNGS,
                max_t=hyperband_units(options),
                reduction_factor=options.reduction,
                stop_last_trials=False,
                **goal,
            )
    interval = first_rung(options, samples)
    return Population(sweep, past, interval, time_attr=SAMPLES, quantile_fraction=options.quantile, **goal)


def name_of(trial: Trial) -> str:
    """Return the sweep's name for a trial of Ray Tune."""
    trial_spec = trial.config[TRIAL_SPEC]
    return trial_name(trial_spec["number"], trial_spec["replica"])


SAMPLES = "samples"
"""Samples that the trial has seen."""

RUNGS = "rungs"
"""The same in whole first rungs, HyperBand's unit of time."""

OUTCOME = "outcome"
"""How the trial ended, as a status of its record; empty while it runs."""

REASON = "reason"
"""Why it failed or was stopped; empty otherwise."""

LINEAGE = "lineage"
"""The trial's run, as a `Lineage`."""
