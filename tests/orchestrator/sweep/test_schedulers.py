from __future__ import annotations

from collections.abc import Callable

import pytest
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from orchestrator.spec.sweep_loading import ResolvedSweep
from orchestrator.sweep.folder import Point
from orchestrator.sweep.results import SAMPLES
from orchestrator.sweep.schedulers import SuccessiveHalving, first_rung, make_scheduler

Make = Callable[..., ResolvedSweep]


class Trial:
    """What the scheduler looks at of Ray Tune's trials."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def halving(make: Make, mode: str = "min") -> SuccessiveHalving:
    objectives = f'objectives=[{{"metric": "loss", "mode": "{mode}"}}]'
    options = ("scheduler.kind=asha", "scheduler.first_rung=0.25", "scheduler.reduction=2")
    found = make_scheduler(make(objectives, *options), 480)
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
    assert first_rung(make("scheduler.kind=asha", "scheduler.first_rung=0.25"), 480) == 120
    assert [milestone for milestone, _ in halving(make)._brackets[0]._rungs] == [480, 240, 120]


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_what_earlier_starts_have_seen_counts_when_trials_are_compared(make: Make, mode: str, sign: float) -> None:
    scheduler = halving(make, mode)
    for name, value in (("trial-0000-0", 0.1), ("trial-0001-0", 0.2)):
        scheduler.recall(name, (Point(120, (sign * value,)), Point(240, (sign * value,))))
    going_on, new, good = Trial("a"), Trial("b"), Trial("c")
    scheduler.recall("a", (Point(120, (sign * 0.9,)),))
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
