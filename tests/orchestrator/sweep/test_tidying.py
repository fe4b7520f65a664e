"""Runs that could not say themselves how they ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from processes import free_ports

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.sweep.folder import SweepFolder, TrialRecord, TrialStatus
from orchestrator.sweep.sweep_logger import finalize_orphaned_trials
from orchestrator.track.metric_log import MetricLog, StepLine
from orchestrator.track.tracker import Tracker
from orchestrator.train.plan import recipe_yaml

Make = Callable[..., ResolvedSweep]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return new_database(tmp_path / "mlflow.db")


def cut_off(make: Make, folder: SweepFolder, uri: str, number: int) -> RunFolder:
    """Leave a run as a process leaves it that is killed after two steps, one of which MLflow did not get."""
    run = folder.run(f"trial-{number:04d}-0")
    tracker = Tracker.start(uri, "sweeps", f"trial-{number:04d}-0", {"run_folder": run.root.uri}, lambda _: None)
    run.recipe.write(recipe_yaml(make().recipe({})).encode())
    run.write(RunFile("x", "1", "2", uri, tracker.run_id, 6, "2026-01-01T00:00:00+00:00", "RUNNING"))
    log = MetricLog(run.metrics)
    for step in range(2):
        log.add(StepLine(step=step, time_ms=step, metrics={"loss": 1.0}, seconds={"step": 1.0}, samples=16))
    log.flush()
    return run


def record(number: int, status: TrialStatus) -> TrialRecord:
    return TrialRecord(number=number, replica=0, assignment={}, status=status, run=f"trial-{number:04d}-0")


def test_runs_of_trials_that_are_over_say_so_with_all_their_figures(make: Make, folder: SweepFolder, uri: str) -> None:
    statuses: tuple[TrialStatus, ...] = ("STOPPED", "FAILED", "PAUSED")
    runs = [cut_off(make, folder, uri, number) for number in range(3)]
    told: list[str] = []
    finalize_orphaned_trials(folder, [record(number, status) for number, status in enumerate(statuses)], told.append)
    assert told == []
    assert [run.read().status for run in runs] == ["KILLED", "FAILED", "RUNNING"]
    client = MlflowClient(uri)
    found = [client.get_run(run.read().mlflow_run_id) for run in runs]
    assert [one.info.status for one in found] == ["KILLED", "FAILED", "RUNNING"]
    steps = [[one.step for one in client.get_metric_history(each.info.run_id, "loss")] for each in found]
    assert steps == [[0, 1], [0, 1], []]


def test_what_cannot_be_tidied_is_said_and_holds_up_nothing(make: Make, folder: SweepFolder, uri: str) -> None:
    lost, good = (cut_off(make, folder, uri, number) for number in range(2))
    lost.write(replace(lost.read(), mlflow_run_id="gone"))
    told: list[str] = []
    finalize_orphaned_trials(folder, [record(0, "STOPPED"), record(1, "STOPPED"), record(2, "FAILED")], told.append)
    assert len(told) == 1
    assert told[0].startswith("warning: trial-0000-0: ")
    assert good.read().status == "KILLED"


def test_storage_that_fails_for_one_trial_holds_up_nothing(
    make: Make, folder: SweepFolder, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, good = (cut_off(make, folder, uri, number) for number in range(2))
    exists = RunFolder.exists

    def fails(run: RunFolder) -> bool:
        if run.root == lost.root:
            raise StorageError("s3://bucket: no answer")
        return exists(run)

    monkeypatch.setattr(RunFolder, "exists", fails)
    told: list[str] = []
    finalize_orphaned_trials(folder, [record(0, "STOPPED"), record(1, "STOPPED")], told.append)
    assert told == ["warning: trial-0000-0: s3://bucket: no answer"]
    assert good.read().status == "KILLED"


def test_runs_that_ended_while_mlflow_was_away_are_caught_up_with(make: Make, folder: SweepFolder, uri: str) -> None:
    run = cut_off(make, folder, uri, 0)
    run.write(replace(run.read(), status="FINISHED", ended="2026-01-01T01:00:00+00:00"))
    finalize_orphaned_trials(folder, [record(0, "FINISHED")], pytest.fail)
    found = MlflowClient(uri).get_run(run.read().mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] == 1.0


def test_mlflow_that_is_still_away_is_asked_once(make: Make, folder: SweepFolder, uri: str) -> None:
    runs = [cut_off(make, folder, uri, number) for number in range(3)]
    for run in runs:
        run.write(replace(run.read(), tracking_uri=f"http://127.0.0.1:{free_ports(1)[0]}"))
    told: list[str] = []
    finalize_orphaned_trials(folder, [record(number, "STOPPED") for number in range(3)], told.append)
    assert len(told) == 1
    assert "MLflow cannot be reached" in told[0]
    assert f"`fuseray sync {runs[0].root.uri}`" in told[0]
    assert [run.read().status for run in runs] == ["KILLED"] * 3
