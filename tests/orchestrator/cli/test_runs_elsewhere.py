"""The verbs for a run, used in another folder than the one that it was started in: they find all, and make nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from saving import save_checkpoint
from shards import write_shards

from orchestrator.cli.main import cli
from orchestrator.config.loading import load_recipe
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.stream.ledger import Ledger
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.tracker import Tracker
from orchestrator.train.checkpoints.manifest import RunState
from orchestrator.train.plan import make_plan, recipe_yaml

RECIPE = """\
workload: albef
name: mine
data: {train: data/train, held_out: data/train}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 2}
scale: {cpus_per_worker: 0.5}
stream: {audit: true}
model: {preset: tiny}
"""
VERBS = (("report",), ("sync",), ("audit",), ("checkpoints", "list"), ("trace", "--step", "0"))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run of a recipe with relative paths was started."""
    folder = tmp_path_factory.mktemp("started")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _write_run(folder)
    return folder


def _write_run(folder: Path) -> None:
    write_shards("data", 50)
    new_database(folder / "runs" / "mlflow.db")
    Path("mine.yaml").write_text(RECIPE)
    plan = make_plan(load_recipe(Path("mine.yaml")))
    tracker = Tracker.start(plan.recipe.tracking.uri, "tests", "mine", {}, log=print)
    tracker.finish("KILLED", ended_ms=1)
    plan.run.recipe.write(recipe_yaml(plan.resolved).encode())
    digests = plan.resolved.digest(), plan.data.digest
    uri, run_id = plan.recipe.tracking.uri, tracker.run_id
    plan.run.write(RunFile("mine", *digests, uri, run_id, plan.steps, "2026-01-01T00:00:00+00:00", "KILLED"))
    config = plan.resolved.workload.model_dump(mode="json")
    state = RunState(2, 42, *digests, run_id, "albef", config, None, None)
    save_checkpoint(plan.run, state, torch.nn.Linear(1, 1).state_dict(), {})
    ledger = Ledger(plan.run.ledger, worker=0)
    for step in range(2):
        ledger.add(step, [_micro_batch(number, plan.reader.keys(number)) for number in (2 * step, 2 * step + 1)])
    ledger.flush()


def _micro_batch(number: int, keys: list[str]) -> MicroBatch:
    return MicroBatch(number, tuple(keys), {}, (), 0)


@pytest.fixture
def home(started: Path, tmp_path: Path) -> Path:
    """A folder that the run and all that it uses moved to."""
    return Path(shutil.copytree(started, tmp_path / "home"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == [], "something was made"


def use(run: Path, verb: tuple[str, ...]) -> Result:
    group, *rest = verb
    words = [group, rest[0], str(run)] if group == "checkpoints" else [group, str(run), *rest]
    return CliRunner().invoke(cli, words, standalone_mode=False)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_run_is_used_from_another_folder(started: Path, verb: tuple[str, ...]) -> None:
    result = use(started / "runs" / "mine", verb)
    assert result.exception is None, result.output


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_run_that_moved_with_all_that_it_uses(
    started: Path, home: Path, verb: tuple[str, ...], tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    shutil.move(started, hidden)
    try:
        result = use(home / "runs" / "mine", verb)
    finally:
        shutil.rmtree(started, ignore_errors=True)  # MLflow keeps the files of an experiment at an absolute place
        shutil.move(hidden, started)
    assert result.exception is None, result.output


def relative_record(home: Path, started: Path) -> Path:
    """Let the record hold relative places, as earlier versions wrote it."""
    for name in ("run.json", "recipe.yaml"):
        file = home / "runs" / "mine" / name
        file.write_text(file.read_text().replace(f"{started}/", ""))
    return home / "runs" / "mine"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_relative_record_works_in_its_own_folder(
    started: Path, home: Path, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    result = use(relative_record(home, started), verb)
    assert result.exception is None, result.output


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("verb", [("report",), ("sync",), ("evaluate",)], ids=lambda verb: verb[0])
def test_a_relative_record_makes_no_database_elsewhere(started: Path, home: Path, verb: tuple[str, ...]) -> None:
    result = use(relative_record(home, started), verb)
    assert isinstance(result.exception, TrackingError)
    assert "the run's record names it relative to the folder that the run was started in" in str(result.exception)


@pytest.mark.parametrize("verb", [("report",), ("sync",), ("evaluate",)], ids=lambda verb: verb[0])
def test_a_run_that_is_deleted_in_mlflow_is_said_to_be(started: Path, verb: tuple[str, ...]) -> None:
    file = RunFolder(locate(f"{started}/runs/mine")).read()
    client = MlflowClient(file.tracking_uri)
    client.delete_run(file.mlflow_run_id)
    try:
        result = use(started / "runs" / "mine", verb)
    finally:
        client.restore_run(file.mlflow_run_id)
    assert isinstance(result.exception, TrackingError)
    assert f"mlflow runs restore --run-id {file.mlflow_run_id}`" in str(result.exception)
