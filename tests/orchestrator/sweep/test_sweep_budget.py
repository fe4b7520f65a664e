from __future__ import annotations

import threading

import pytest

from orchestrator.config.sweep import SweepBudgetSection
from orchestrator.sweep.driver import STOPPED_BY_USER, GpuHours, StopCondition, exhausted_budget
from orchestrator.sweep.folder import SweepFolder, TrialRecord
from orchestrator.sweep.sweep_logger import TrialRecords
from orchestrator.track.cost import MachineKind, RunCost, StartUsage, UsagePeriod, write_start

HOUR_MS = 3_600_000
SPENT = RunCost(7200.0, {MachineKind("g5.xlarge", "spot", 0.5): 7200.0})


def start(begin_h: int, end_h: int) -> StartUsage:
    begin, end = begin_h * HOUR_MS, end_h * HOUR_MS
    return StartUsage(begin, end, periods=(UsagePeriod(begin, end, {MachineKind("g5.xlarge", "spot", 0.5): 1}),))


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (SweepBudgetSection(), ""),
        (SweepBudgetSection(hours=2.5, usd=1.5, gpu_hours=7), ""),
        (SweepBudgetSection(hours=2), "budget.hours: the sweep has taken 2 of 2 hours"),
        (SweepBudgetSection(usd=1), "budget.usd: the sweep has cost 1.00 of 1 USD"),
        (SweepBudgetSection(gpu_hours=6), "budget.gpu_hours: the trials have taken 6.5 of 6 GPU-hours"),
    ],
)
def test_each_key_of_the_budget_ends_the_sweep(budget: SweepBudgetSection, said: str) -> None:
    assert exhausted_budget(budget, SPENT, lambda: 6.5) == said


def test_gpu_hours_are_the_wall_time_of_trials_times_their_workers(folder: SweepFolder, trials: TrialRecords) -> None:
    hours = GpuHours(folder, trials, gpus=4)
    assert hours() == 0
    trials.update(TrialRecord(number=0, replica=0, assignment={}, status="RUNNING"))
    trials.update(TrialRecord(number=1, replica=0, assignment={}, status="FINISHED", run="trial-0001-0"))
    assert hours() == 0
    write_start(folder.run("trial-0000-0").costs, start(0, 1))
    write_start(folder.run("trial-0000-0").costs, start(3, 4))
    assert hours() == 8
    write_start(folder.run("trial-0000-0").costs, start(3, 5))
    assert hours() == 12
    write_start(folder.run("trial-0000-0-from-ab").costs, start(6, 7))
    assert hours() == 16


def test_a_sweep_ends_when_asked_or_when_its_budget_is_used_up_and_says_so_once() -> None:
    told: list[str] = []
    limits = [""]
    interrupted = threading.Event()
    by_budget = StopCondition(interrupted, lambda: limits[0], told.append)
    assert by_budget.check() == ""
    limits[0] = "budget.usd: all"
    assert by_budget.check() == by_budget.check() == "budget.usd: all"
    assert told == ["budget.usd: all; its trials stop with a checkpoint"]
    assert not by_budget.by_user
    interrupted.set()
    asked = StopCondition(interrupted, lambda: limits[0], told.append)
    assert asked.check() == STOPPED_BY_USER
    assert asked.by_user
    assert len(told) == 2
