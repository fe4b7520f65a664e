"""A trial under Ray Tune, and its training in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.sweep.folder import SweepError, SweepFolder
from orchestrator.sweep.schedulers import TRIAL_SPEC
from orchestrator.sweep.sweep_logger import TrialRecords
from orchestrator.sweep.trial import SweepContext, SweepTrial
from orchestrator.sweep.trial_runner import ReportSchedule, TrialReport, TrialRun, earlier_reports
from orchestrator.sweep.tune import SweepSearch
from orchestrator.track.cost import RunCost
from orchestrator.track.metric_log import MetricLog, StepLine
from orchestrator.train.control_channel import RunObserver, StepRecord
from orchestrator.train.driver import Outcome


def test_relative_paths_of_a_trial_begin_where_the_sweep_was_started(
    make: Callable[..., ResolvedSweep], folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    started.mkdir()
    context = SweepContext(
        sweep=make(),
        folder=folder.root,
        parent_run_id="run",
        seed=42,
        first_rung=48,
        report_steps=1,
        stop_signal=None,
        prices=None,
        cost_share=1.0,
        overrides={},
        working_folder=str(started),
    )

    class Given(SweepTrial):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, context)

    tunes = SimpleNamespace(trial_fs_path="tune", trial_working_directory=str(tmp_path / "tune"))
    monkeypatch.chdir(tmp_path)
    Given({TRIAL_SPEC: SweepSearch(context.sweep, TrialRecords(folder)).next()}, storage=tunes)  # type: ignore[arg-type]
    assert Path.cwd() == started


REPORTS = ReportSchedule(["loss"], samples_per_step=16, steps=6, every=2)


def nobody_asks() -> str:
    return ""


def record(step: int, **metrics: float) -> StepRecord:
    return StepRecord(step, metrics, {}, 16, time_ms=0)


def training(steps: int, status: str = "FINISHED", stopped_by: str = "") -> Callable[..., Outcome]:
    def train(display: RunObserver, interrupted: threading.Event) -> Outcome:
        for step in range(steps):
            display.step(record(step, loss=1.0 / (step + 1)), 0)
        return Outcome(status, steps, RunCost(), stopped_by)

    return train


def until_stopped(display: RunObserver, interrupted: threading.Event) -> Outcome:
    display.step(record(1, loss=0.5), 0)
    assert interrupted.wait(60)
    return Outcome("KILLED", 2, RunCost())


def reports_of(run: TrialRun) -> list[TrialReport]:
    found = [run.next(nobody_asks)]
    while found[-1].outcome is None:
        found.append(run.next(nobody_asks))
    return found


def test_figures_of_every_step_are_reported_now_and_then_and_at_the_end() -> None:
    assert [step for step in range(6) if REPORTS.report_of(step, {"loss": 1.0})] == [1, 3, 5]
    assert REPORTS.report_of(3, {"loss": 2.0, "x": 1.0}) == TrialReport(64, (2.0,))
    assert REPORTS.report_of(3, {"x": 1.0}) is None
    odd = ReportSchedule(["loss"], samples_per_step=16, steps=5, every=2)
    assert [step for step in range(5) if odd.report_of(step, {"loss": 1.0})] == [1, 3, 4]


def test_evaluated_figures_are_reported_whenever_they_are_there() -> None:
    reports = ReportSchedule(["held_out/recall", "loss"], samples_per_step=16, steps=100, every=50)
    assert reports.report_of(6, {"held_out/recall": 0.5, "loss": 2.0}) == TrialReport(112, (0.5, 2.0))
    assert reports.report_of(49, {"loss": 2.0}) is None


def test_a_run_ends_with_the_report_of_its_last_step() -> None:
    found = reports_of(TrialRun(training(6), REPORTS, 96))
    assert [report.samples for report in found] == [32, 64, 96]
    assert found[-1] == TrialReport(96, (1 / 6,), "FINISHED")


def test_what_the_sweep_knows_already_is_not_reported_again() -> None:
    before = [TrialReport(32, (0.5,)), TrialReport(64, (0.25,))]
    assert [one.samples for one in reports_of(TrialRun(training(6), REPORTS, 96, before, 0))] == [32, 64, 96]
    assert [one.samples for one in reports_of(TrialRun(training(6), REPORTS, 96, before, 32))] == [64, 96]
    assert [one.samples for one in reports_of(TrialRun(training(6), REPORTS, 96, before[:1], 64))] == [96]


def test_a_run_that_has_ended_before_reports_its_end() -> None:
    before = [TrialReport(64, (0.25,)), TrialReport(96, (0.2,))]
    assert reports_of(TrialRun(training(0), REPORTS, 96, before, 64, done=True)) == [
        TrialReport(96, (0.2,), "FINISHED")
    ]


def test_a_run_without_the_objectives_figures_fails_with_their_names() -> None:
    reports = ReportSchedule(["held_out/recall"], samples_per_step=16, steps=6, every=1)
    with pytest.raises(SweepError, match=r"no step of the run had the metrics held_out/recall"):
        TrialRun(training(6), reports, 96).next(nobody_asks)


def test_what_ends_a_run_is_raised() -> None:
    def broken(display: RunObserver, interrupted: threading.Event) -> Outcome:
        raise ValueError("out of luck")

    with pytest.raises(ValueError, match="out of luck"):
        TrialRun(broken, REPORTS, 96).next(nobody_asks)


def test_a_run_stops_when_asked_and_says_why() -> None:
    run = TrialRun(until_stopped, REPORTS, 96, poll_interval_s=0.01)
    assert run.next(nobody_asks) == TrialReport(32, (0.5,))
    assert run.next(lambda: "enough") == TrialReport(32, (0.5,), "PAUSED", "enough")


def test_a_run_is_stopped_without_being_listened_to() -> None:
    run = TrialRun(until_stopped, REPORTS, 96)
    run.end()
    assert [report.outcome for report in reports_of(run)] == [None, "PAUSED"]


def test_a_recipes_own_budget_ends_its_trial() -> None:
    run = TrialRun(training(2, "KILLED", "budget.usd: 1 of 1 USD"), REPORTS, 96)
    assert reports_of(run)[-1] == TrialReport(32, (0.5,), "STOPPED", "budget.usd: 1 of 1 USD")


def test_earlier_reports_come_from_the_metric_log(tmp_path: Path) -> None:
    run = RunFolder(locate(str(tmp_path / "trial-0000-0")))
    assert earlier_reports(run, REPORTS) == []
    run.write(RunFile("x", "1", "2", "sqlite:///x", "3", 6, "2026-01-01T00:00:00+00:00", "RUNNING"))
    assert earlier_reports(run, REPORTS) == []
    log = MetricLog(run.metrics)
    for step in range(5):
        log.add(StepLine(step=step, metrics={"loss": float(step)}, seconds={}, samples=16, time_ms=step))
    log.flush()
    assert earlier_reports(run, REPORTS) == [TrialReport(32, (1.0,)), TrialReport(64, (3.0,))]
