"""The MLflow run of a resumed run: where the recipe says, even when that has changed since the last start."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from shards import write_shards

from orchestrator.config.loading import load_recipe
from orchestrator.storage.run_folder import RunError
from orchestrator.track.metric_log import MetricLog
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.run_writer import TrackedRun
from orchestrator.train.budget import CostMeter
from orchestrator.train.control_channel import StepRecord
from orchestrator.train.driver import RunDriver, StartTime
from orchestrator.train.plan import make_plan
from orchestrator.train.resume import ResumePoint, continued_run

RECIPE = """\
workload: albef
name: mine
data: {train: data/train}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 6}
scale: {cpus_per_worker: 0.5}
model: {preset: tiny}
"""
START_MS = 1_767_225_600_000


@dataclass
class Screen:
    """Keeps what the user is shown."""

    messages: list[str] = field(default_factory=list)

    def log(self, text: str) -> None:
        self.messages.append(text)

    def step(self, record: StepRecord, skipped: int) -> None:
        """Show nothing."""


def train(recipe: Path, steps: range, *overrides: str) -> list[str]:
    """Do some steps of a run, new or resumed, in the current folder; return what the user is told."""
    screen = Screen()
    plan = make_plan(load_recipe(recipe, overrides))
    start = continued_run(plan) if plan.run.exists() else ResumePoint(None)
    start = ResumePoint(start.previous, steps.start)
    logger = RunDriver(
        plan, start, screen, threading.Event(), CostMeter(plan.run.costs, lambda: [], now_ms=lambda: START_MS)
    ).start_logger(StartTime())
    log = MetricLog(plan.run.metrics)
    for step in steps:
        record = StepRecord(step, {"loss": 1.0 / (step + 1)}, {"step": 0.5}, 16, time_ms=START_MS + step)
        logger.log_messages([record])
        log.add(record.line())
    log.flush()
    logger.close("KILLED")
    return screen.messages


def steps_in(uri: str, run_id: str) -> list[int]:
    return TrackedRun(uri, run_id).curve("loss")[0]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with data, a recipe of relative paths, and a run that did two steps."""
    folder = tmp_path / "home"
    write_shards(str(folder / "data"), 50)
    new_database(folder / "runs" / "mlflow.db")
    (folder / "mine.yaml").write_text(RECIPE)
    monkeypatch.chdir(folder)
    assert train(folder / "mine.yaml", range(2)) == []
    return folder


def record(home: Path) -> tuple[str, str]:
    file = make_plan(load_recipe(home / "mine.yaml", [f"storage.uri={home}/runs"])).run.read()
    return file.tracking_uri, file.mlflow_run_id


def test_the_record_holds_absolute_places(home: Path) -> None:
    assert record(home)[0] == f"sqlite:///{home}/runs/mlflow.db"
    recipe = make_plan(load_recipe(home / "mine.yaml")).run.recipe_values()
    assert recipe["data"]["train"] == f"{home}/data/train"
    assert recipe["storage"]["uri"] == f"{home}/runs"


def test_another_mlflow_gets_the_run_with_its_earlier_steps(home: Path) -> None:
    old_uri, old_id = record(home)
    new_uri = new_database(home / "new.db")
    (told, *_) = train(home / "mine.yaml", range(2, 4), f"tracking.uri={new_uri}", "tracking.experiment=other")
    uri, run_id = record(home)
    assert (uri, run_id != old_id) == (new_uri, True)
    assert f"tracking.uri has changed: the run is {run_id} in {new_uri} from now on" in told
    assert steps_in(uri, run_id) == [0, 1, 2, 3]
    assert steps_in(old_uri, old_id) == [0, 1]
    assert MlflowClient(uri).get_run(run_id).data.params["data.train"] == f"{home}/data/train"


def test_the_same_mlflow_at_another_address_goes_on(home: Path) -> None:
    _, run_id = record(home)
    shutil.move(home / "runs" / "mlflow.db", home / "moved.db")
    moved = f"sqlite:///{home}/moved.db"
    with pytest.raises(TrackingError, match=r"tracking\.experiment cannot change .* 'fuseray', not 'other'"):
        train(home / "mine.yaml", range(2, 4), f"tracking.uri={moved}", "tracking.experiment=other")
    assert train(home / "mine.yaml", range(2, 4), f"tracking.uri={moved}") == []
    assert record(home) == (moved, run_id)
    assert steps_in(moved, run_id) == [0, 1, 2, 3]


def test_a_run_is_resumed_from_another_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, run_id = record(home)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert train(home / "mine.yaml", range(2, 4), f"storage.uri={home}/runs") == []
    assert record(home) == (uri, run_id)
    assert steps_in(uri, run_id) == [0, 1, 2, 3]
    assert list(elsewhere.iterdir()) == []


def test_a_run_whose_record_is_relative_is_resumed_in_its_own_folder(home: Path) -> None:
    """As earlier versions wrote it."""
    uri, run_id = record(home)
    for name in ("run.json", "recipe.yaml"):
        file = home / "runs" / "mine" / name
        file.write_text(file.read_text().replace(f"{home}/", "").replace('"recipe_digest": "', '"recipe_digest": "0'))
    assert f"{home}" not in (home / "runs" / "mine" / "run.json").read_text()
    assert train(home / "mine.yaml", range(2, 4)) == []
    assert record(home) == (uri, run_id)
    assert steps_in(uri, run_id) == [0, 1, 2, 3]


def test_a_run_whose_record_is_relative_makes_no_store_elsewhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("run.json", "recipe.yaml"):
        file = home / "runs" / "mine" / name
        file.write_text(file.read_text().replace(f"{home}/", ""))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(TrackingError, match="there is no such MLflow store"):
        train(home / "mine.yaml", range(2, 4), f"storage.uri={home}/runs", f"data.train={home}/data/train")
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_moved_with_its_database_and_data_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_id = record(home)
    moved = tmp_path / "moved"
    shutil.move(home, moved)
    monkeypatch.chdir(moved)
    assert train(moved / "mine.yaml", range(2, 4)) == []
    assert record(moved) == (f"sqlite:///{moved}/runs/mlflow.db", run_id)
    assert steps_in(*record(moved)) == [0, 1, 2, 3]
    run = MlflowClient(record(moved)[0]).get_run(run_id)
    assert run.data.tags["run_folder"] == f"{moved}/runs/mine"


def test_an_experiment_does_not_change_in_silence(home: Path) -> None:
    with pytest.raises(RunError, match=r"tracking\.experiment cannot change when a run is resumed"):
        train(home / "mine.yaml", range(2, 4), "tracking.experiment=other")
