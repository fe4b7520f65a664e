from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.folder import Point, TrialRecord
from orchestrator.sweep.rungs import first_rung
from orchestrator.sweep.schedulers import SAMPLES, TRIAL_SPEC, Population, SuccessiveHalving, make_scheduler

Make = Callable[..., ResolvedSweep]


class Trial:
    """What the scheduler looks at of Ray Tune's trials."""

    def __init__(self, trial_id: str, number: int = 9) -> None:
        self.trial_id = self.experiment_tag = trial_id
        self.config = {TRIAL_SPEC: {"number": number, "replica": 0, "assignment": {"distillation.alpha": 0.5}}}


def past(number: int, value: float, *samples: int, status: str = "FINISHED") -> TrialRecord:
    points = tuple(Point(one, (value,)) for one in samples)
    return TrialRecord(number=number, replica=0, assignment={}, status=status, points=points)  # type: ignore[arg-type]


def halving(make: Make, mode: str = "min", records: Sequence[TrialRecord] = ()) -> SuccessiveHalving:
    objectives = f'objectives=[{{"metric": "loss", "mode": "{mode}"}}]'
    options = ("scheduler.kind=asha", "scheduler.first_rung=0.25", "scheduler.reduction=2")
    found = make_scheduler(make(objectives, *options), 480, records)
    assert isinstance(found, SuccessiveHalving)
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", FIFOScheduler),
        ("asha", AsyncHyperBandScheduler),
        ("hyperband", HyperBandScheduler),
        ("pbt", PopulationBasedTraining),
    ],
)
def test_the_scheduler_is_rays(make: Make, kind: str, expected: type) -> None:
    assert isinstance(make_scheduler(make(f"scheduler.kind={kind}"), 480), expected)


def test_rungs_are_counted_in_samples(make: Make) -> None:
    assert first_rung(make("scheduler.kind=asha", "scheduler.first_rung=0.25").sweep.scheduler, 480) == 120
    assert [milestone for milestone, _ in halving(make)._brackets[0]._rungs] == [480, 240, 120]


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_what_earlier_starts_have_seen_counts_when_trials_are_compared(make: Make, mode: str, sign: float) -> None:
    records = [
        past(0, sign * 0.1, 120, 240),
        past(1, sign * 0.2, 120, 240, status="STOPPED"),
        past(2, sign * 0.9, 120, status="RUNNING"),
    ]
    scheduler = halving(make, mode, records)
    going_on, new, good = Trial("a", number=2), Trial("b"), Trial("c")
    for trial in (going_on, new, good):
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]

    def decision(trial: Trial, samples: int, value: float) -> str:
        return scheduler.on_trial_result(None, trial, {SAMPLES: samples, "loss": sign * value})  # type: ignore[arg-type]

    assert decision(going_on, 120, 0.9) == TrialScheduler.CONTINUE, "it has passed this rung before"
    assert decision(going_on, 240, 0.9) == TrialScheduler.STOP
    assert decision(new, 120, 0.8) == TrialScheduler.STOP
    assert decision(good, 120, 0.05) == TrialScheduler.CONTINUE


def test_a_trial_without_figures_is_not_compared(make: Make) -> None:
    scheduler, trial = halving(make), Trial("a")
    scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
    assert scheduler.on_trial_result(None, trial, {SAMPLES: 240}) == TrialScheduler.CONTINUE  # type: ignore[arg-type]


def test_a_population_goes_on_with_its_exchanges_where_it_was(make: Make) -> None:
    sweep = make("scheduler.kind=pbt", "scheduler.exchange_every=0.25")
    scheduler = make_scheduler(sweep, 480, [past(3, 0.5, 96, 192, 200, status="RUNNING")])
    assert isinstance(scheduler, Population)
    checkpoints = SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None))
    states = []
    for trial in (Trial("a", number=3), Trial("b", number=4)):
        trial.run_metadata = SimpleNamespace(checkpoint_manager=checkpoints)  # type: ignore[attr-defined]
        scheduler.on_trial_add(SimpleNamespace(search_alg=None), trial)  # type: ignore[arg-type]
        states.append(scheduler._trial_state[trial])  # type: ignore[index]
    assert [(one.last_train_time, one.last_perturbation_time) for one in states] == [(200, 120), (0, 0)]


def test_a_trial_that_takes_over_a_checkpoint_gets_values_near_those_of_the_other(make: Make) -> None:
    scheduler = make_scheduler(make("scheduler.kind=pbt"), 480)
    donor = Trial("a", number=2)
    found = [scheduler._get_new_config(Trial("b", number), donor)[0][TRIAL_SPEC] for number in range(3, 19)]  # type: ignore[attr-defined]
    assert [one["number"] for one in found] == list(range(3, 19))
    assert {one["assignment"]["distillation.alpha"] for one in found} == {0.5 * 0.8, 0.5 * 1.2}
    assert donor.config[TRIAL_SPEC]["assignment"] == {"distillation.alpha": 0.5}
