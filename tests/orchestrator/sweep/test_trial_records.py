"""Records of trials as the sweep writes them, also of trials whose process died."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from processes import free_ports

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.sweep.folder import Point, SweepFolder, TrialRecord, TrialStatus
from orchestrator.sweep.schedulers import LINEAGE, OUTCOME, REASON, SAMPLES, TRIAL_SPEC
from orchestrator.sweep.sweep_logger import TrialRecorder, TrialRecords, finalize_orphaned_trials
from orchestrator.sweep.tune import SweepSearch
from orchestrator.track.metric_log import MetricLog, StepLine
from orchestrator.track.tracker import Tracker
from orchestrator.train.plan import recipe_yaml

Make = Callable[..., ResolvedSweep]
NAME = "trial-0000-0"


class Trial:
    """What the chronicle looks at of Ray Tune's trials."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.status = "RUNNING"
        self.last_result: dict[str, Any] = {}
        self.error: Exception | None = None

    def get_error(self) -> Exception | None:
        return self.error


class Story:
    """A chronicle of one trial."""

    def __init__(self, make: Make, folder: SweepFolder) -> None:
        times = count()
        self.folder = folder
        trials = TrialRecords(folder)
        self.trial = Trial(SweepSearch(make(), trials).suggest("a"))
        self.chronicle = TrialRecorder(trials, ["loss"], lambda: f"at {next(times)}")
        self.chronicle.on_trial_start(0, [], self.trial)  # type: ignore[arg-type]

    def reports(
        self,
        samples: int,
        loss: float | None,
        outcome: str = "",
        reason: str = "",
        run: str = NAME,
        done: bool = False,
    ) -> None:
        result = {
            "done": done,
            SAMPLES: samples,
            OUTCOME: outcome,
            REASON: reason,
            LINEAGE: {"run": run, "samples": 0, "start": None},
        }
        self.trial.last_result = result if loss is None else result | {"loss": loss}
        self.chronicle.on_trial_result(0, [], self.trial, self.trial.last_result)  # type: ignore[arg-type]

    def ends(self) -> None:
        self.chronicle.on_trial_complete(0, [], self.trial)  # type: ignore[arg-type]

    @property
    def record(self) -> TrialRecord:
        """What somebody else reads in the folder."""
        return self.folder.trials()[0]


@pytest.fixture
def story(make: Make, folder: SweepFolder) -> Story:
    return Story(make, folder)


def test_a_trial_that_comes_to_its_end(story: Story) -> None:
    assert (story.record.status, story.record.started, story.record.points) == ("RUNNING", "at 0", ())
    story.reports(80, 0.5)
    story.reports(160, 0.25, "FINISHED")
    story.ends()
    assert story.record.points == (Point(80, (0.5,)), Point(160, (0.25,)))
    assert (story.record.status, story.record.ended, story.record.run) == ("FINISHED", "at 1", NAME)


def test_a_trial_that_the_scheduler_stops(story: Story) -> None:
    story.reports(80, 0.5)
    story.ends()
    assert (story.record.status, story.record.reason) == ("STOPPED", "stopped early by the scheduler")


def test_a_stop_is_kept_with_the_report_that_it_follows_from(story: Story) -> None:
    """A driver that dies before Ray Tune's next word would otherwise go on with the trial."""
    story.reports(80, 0.5, done=True)
    assert story.record.points == (Point(80, (0.5,)),)
    assert (story.record.status, story.record.ended) == ("STOPPED", "at 1")


def test_a_trial_that_fails_keeps_its_points_and_its_reason(story: Story) -> None:
    story.reports(80, 0.5)
    story.reports(80, None, "FAILED", "the loss is no number")
    story.ends()
    assert story.record.points == (Point(80, (0.5,)),)
    assert (story.record.status, story.record.reason) == ("FAILED", "the loss is no number")


def test_a_trial_that_is_asked_to_stop_is_not_over(story: Story) -> None:
    story.reports(80, 0.5, "PAUSED", "asked")
    story.ends()
    assert (story.record.status, story.record.reason, story.record.is_over) == ("PAUSED", "asked", False)
    story.chronicle.on_trial_start(0, [], story.trial)  # type: ignore[arg-type]
    assert (story.record.status, story.record.reason, story.record.ended) == ("RUNNING", "", "")


def test_a_trial_whose_process_is_lost_again_and_again(story: Story) -> None:
    story.trial.error = RuntimeError("traceback\nThe actor died.")
    story.chronicle.on_trial_error(0, [], story.trial)  # type: ignore[arg-type]
    assert (story.record.status, story.record.reason) == ("FAILED", "The actor died.")


def test_a_trial_that_waits_for_its_turn_and_takes_over_another_ones_checkpoint(story: Story) -> None:
    story.reports(80, 0.5)
    story.trial.status = "PAUSED"
    story.chronicle.on_step_end(0, [story.trial])  # type: ignore[list-item]
    assert story.record.status == "PAUSED"
    story.trial.config[TRIAL_SPEC]["assignment"] = {"distillation.alpha": 0.75}
    story.chronicle.on_trial_start(0, [], story.trial)  # type: ignore[arg-type]
    story.reports(160, 0.25, run=f"{NAME}-from-ab")
    assert story.record.assignment == {"distillation.alpha": 0.75}
    assert (story.record.status, story.record.run) == ("RUNNING", f"{NAME}-from-ab")


def test_a_report_of_an_earlier_place_replaces_what_came_after(story: Story) -> None:
    for samples in (80, 160, 240):
        story.reports(samples, 1.0 / samples)
    story.reports(160, 9.0)
    assert story.record.points == (Point(80, (1 / 80,)), Point(160, (9.0,)))


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
