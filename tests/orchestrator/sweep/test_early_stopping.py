"""The expected length of a sweep, beside what Ray Tune's own schedulers do with figures in random order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import HyperBandScheduler, TrialScheduler

from orchestrator.config.sweep import SchedulerSection
from orchestrator.sweep.rungs import bracket_sizes, expected_full_runs
from orchestrator.sweep.schedulers import TRIAL_SPEC, SuccessiveHalving

UNITS = 1000


def asha(first_rung: float, reduction: int) -> SchedulerSection:
    return SchedulerSection(kind="asha", first_rung=first_rung, reduction=reduction)


def hyperband(first_rung: float, reduction: int = 3) -> SchedulerSection:
    return SchedulerSection(kind="hyperband", first_rung=first_rung, reduction=reduction)


def rungs(options: SchedulerSection) -> list[int]:
    found = [round(options.first_rung * UNITS)]
    while found[-1] * options.reduction < UNITS:
        found.append(found[-1] * options.reduction)
    return found


def played(options: SchedulerSection, trials: int, seed: int) -> float:
    """Return the whole runs that Ray Tune's ASHA lets trials of random worth use, one after the other."""
    scheduler = SuccessiveHalving(
        (), time_attr="samples", metric="loss", mode="min", max_t=UNITS, grace_period=rungs(options)[0],
        reduction_factor=options.reduction, stop_last_trials=False,
    )  # fmt: skip
    used = 0
    for number, loss in enumerate(np.random.default_rng(seed).random(trials)):
        trial: Any = SimpleNamespace(trial_id=str(number), config={TRIAL_SPEC: {"number": number, "replica": 0}})
        scheduler.on_trial_add(None, trial)
        stops = (
            rung
            for rung in rungs(options)
            if scheduler.on_trial_result(None, trial, {"samples": rung, "loss": loss}) == TrialScheduler.STOP
        )
        used += next(stops, UNITS)
    return used / UNITS


@pytest.mark.parametrize(
    ("first_rung", "reduction", "trials"), [(0.1, 3, 40), (0.25, 2, 8), (0.04, 4, 100), (0.6, 3, 24)]
)
def test_asha_uses_about_what_is_expected(first_rung: float, reduction: int, trials: int) -> None:
    options = asha(first_rung, reduction)
    mean = np.mean([played(options, trials, seed) for seed in range(150)])
    assert expected_full_runs(options, trials) == pytest.approx(mean, rel=0.05)


def test_a_single_trial_runs_to_its_end_and_nobody_stops_without_a_scheduler() -> None:
    assert expected_full_runs(asha(0.1, 3), 1) == pytest.approx(1)
    assert expected_full_runs(SchedulerSection(), 7) == 7
    assert expected_full_runs(SchedulerSection(kind="pbt"), 7) == 7


def test_the_more_trials_the_closer_it_comes_to_one_in_reduction_going_on() -> None:
    ideal = 1 / 9 + (1 / 3) * (2 / 9) + (1 / 9) * (2 / 3)
    few, many = (expected_full_runs(asha(1 / 9, 3), trials) / trials for trials in (10, 400))
    assert ideal < many < few < 1


@pytest.mark.parametrize(("first_rung", "reduction"), [(1 / 81, 3), (0.1, 3), (0.1, 2), (0.5, 4), (1 / 16, 4)])
def test_hyperbands_brackets_are_those_of_ray(first_rung: float, reduction: int) -> None:
    units = round(1 / first_rung)
    scheduler = HyperBandScheduler(metric="loss", mode="min", max_t=units, reduction_factor=reduction)
    rays = range(scheduler._s_max_1)
    assert bracket_sizes(units, reduction) == {s: scheduler._get_n0(s) for s in rays if scheduler._get_r0(s) > 0}


def test_hyperband_by_hand() -> None:
    """Nine units: 3 trials run whole; 5 run to 3, of which 2 go on; 9 run to 1, of which 3 go on, then 1."""
    assert bracket_sizes(9, 3) == {0: 3, 1: 5, 2: 9}
    assert expected_full_runs(hyperband(1 / 9), 3) == pytest.approx(3)
    assert expected_full_runs(hyperband(1 / 9), 8) == pytest.approx(3 + (5 * 3 + 2 * 6) / 9)
    assert expected_full_runs(hyperband(1 / 9), 17) == pytest.approx(3 + (5 * 3 + 2 * 6) / 9 + (9 + 3 * 2 + 6) / 9)


def test_a_bracket_that_is_not_filled_keeps_as_many_as_a_full_one() -> None:
    assert expected_full_runs(hyperband(1 / 9), 5) == pytest.approx(3 + 2)
    assert expected_full_runs(hyperband(1 / 9), 6) == pytest.approx(3 + (3 * 3 + 2 * 6) / 9)
