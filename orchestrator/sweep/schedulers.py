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
"""The key of Ray Tune's configuration of a trial under which all stands that the trial is given."""

RE_REPORTING = ("hyperband",)
"""Schedulers that know nothing of earlier starts: trials report to them again."""


class SuccessiveHalving(AsyncHyperBandScheduler):
    """Ray Tune's ASHA (Li et al. 2020), which knows what was reported before its driver was lost.

    A trial that goes on is not stopped for what it has reported before.

    Args:
        past: the trials of earlier starts.
        options: Ray Tune's.
    """

    def __init__(self, past: Sequence[TrialRecord], **options: Any) -> None:
        super().__init__(**options)
        self._past = {record.name: record.points for record in past}
        for record in past:
            if record.is_over:
                self._enter(record.name, record.points)

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Take in a trial."""
        super().on_trial_add(tune_controller, trial)
        self._enter(trial.trial_id, self._past.get(name_of(trial), ()))

    def _enter(self, trial_id: str, points: Sequence[Point]) -> None:
        past: Any = SimpleNamespace(trial_id=trial_id)
        sign = 1.0 if self._mode == "max" else -1.0
        for point in points:
            for bracket in self._brackets:
                bracket.on_result(past, point.samples, sign * point.values[0])


class Population(PopulationBasedTraining):
    """Ray Tune's PBT (Jaderberg et al. 2017), which knows how far trials were before its driver was lost.

    Args:
        sweep: the sweep.
        past: the trials of earlier starts.
        interval: samples between two exchanges.
        options: Ray Tune's.
    """

    def __init__(self, sweep: ResolvedSweep, past: Sequence[TrialRecord], interval: int, **options: Any) -> None:
        super().__init__(perturbation_interval=interval, custom_explore_fn=dict, **options)  # Ray wants one
        self._sweep = sweep
        self._past = {record.name: record.points for record in past}
        self._interval = interval

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Take in a trial."""
        super().on_trial_add(tune_controller, trial)
        if points := self._past.get(name_of(trial)):
            state, samples = self._trial_state[trial], points[-1].samples
            state.last_train_time = samples
            state.last_perturbation_time = samples - samples % self._interval

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the configuration of a trial that takes over another one's checkpoint: near the other one's values."""
        given, theirs = trial.config[TRIAL_SPEC], trial_to_clone.config[TRIAL_SPEC]["assignment"]
        return {TRIAL_SPEC: given | {"assignment": perturbed(self._sweep, theirs, name_of(trial))}}, {}


def make_scheduler(sweep: ResolvedSweep, samples: int, past: Sequence[TrialRecord] = ()) -> TrialScheduler:
    """Return the scheduler of a sweep.

    Args:
        sweep: the sweep.
        samples: that a whole trial sees.
        past: the trials of earlier starts.
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
    """Return our name of one of Ray Tune's trials."""
    given = trial.config[TRIAL_SPEC]
    return trial_name(given["number"], given["replica"])


# The names in a trial's results that are not objectives.


SAMPLES = "samples"
"""Samples that the trial has seen."""

RUNGS = "rungs"
"""The same in units of the first rung; HyperBand makes brackets of whole units."""

OUTCOME = "outcome"
"""How the trial ended, as a record's status; empty while it goes on."""

REASON = "reason"
"""Why it failed or was stopped; empty otherwise."""

LINEAGE = "lineage"
"""The run that the trial goes on with, as a record has it."""
