"""A run's exported model in the registry of every kind of store."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import numpy as np
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from safetensors.numpy import load_file, save_file
from tracking import NOON_MS, Pauses, Store

from orchestrator.storage.location import Location, locate
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.payloads import register_model
from orchestrator.track.run_writer import TrackedRun
from orchestrator.track.tracker import Tracker

WEIGHTS = {"weight": np.arange(12, dtype=np.float32).reshape(3, 4)}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's store of files opens a database in the working directory when it registers a model."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Location:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(WEIGHTS, folder / "model.safetensors")
    (folder / "config.json").write_text('{"layers": 2}')
    (folder / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    return locate(str(folder))


@pytest.fixture
def name() -> str:
    return f"sweep-{secrets.token_hex(4)}"


def tracked(store: Store, model: Location | None) -> TrackedRun:
    told: list[str] = []
    experiment = f"experiment-{secrets.token_hex(4)}"
    tracker = Tracker.start(
        store.uri, experiment, "run", {}, told.append, store.artifacts, outboxes=Pauses().outboxes()
    )
    if model is not None:
        tracker.copy(model, "model")
    assert tracker.finish("FINISHED", NOON_MS) is None
    assert told == []
    return TrackedRun(store.uri, tracker.run_id)


def fetched(uri: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return Path(download_artifacts(artifact_uri=uri, tracking_uri=store.uri, registry_uri=store.uri))


def test_a_registered_model_can_be_fetched_whole(
    store: Store, model: Location, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracked(store, model)
    found = register_model(run, model, name, {"trial": "trial-0001-0", "objective/recall@10": "0.5"}, "best")
    assert (found.version, found.new, found.uri) == (1, True, f"models:/{name}/1")
    folder = fetched(found.uri, store, monkeypatch)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    assert json.loads((folder / "config.json").read_text()) == {"layers": 2}
    assert np.array_equal(load_file(folder / "model.safetensors")["weight"], WEIGHTS["weight"])
    version = MlflowClient(store.uri).get_model_version(name, "1")
    assert version.run_id == run.run_id
    assert version.tags == {"trial": "trial-0001-0", "objective/recall_at_10": "0.5"}
    assert (fetched(f"models:/{name}@best", store, monkeypatch) / "config.json").exists()


def test_a_run_has_one_version_and_the_alias_follows_the_last_choice(store: Store, model: Location, name: str) -> None:
    first, second = tracked(store, model), tracked(store, model)
    assert register_model(first, model, name, {}, "best").new
    again = register_model(first, model, name, {}, "best")
    assert (again.version, again.new) == (1, False)
    assert register_model(second, model, name, {}, "best").version == 2
    client = MlflowClient(store.uri)
    assert str(client.get_model_version_by_alias(name, "best").version) == "2"
    register_model(first, model, name, {}, "best")
    assert str(client.get_model_version_by_alias(name, "best").version) == "1"
    assert len(client.search_model_versions(f"name = '{name}'")) == 2


def test_files_that_mlflow_lacks_are_sent_first(
    store: Store, model: Location, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracked(store, None)
    assert run.files("model") == set()
    folder = fetched(register_model(run, model, name, {}, "best").uri, store, monkeypatch)
    assert (folder / "tokenizer.json").exists()


def test_a_run_without_an_exported_model_is_refused(tmp_path: Path, name: str) -> None:
    store = Store(new_database(tmp_path / "mlflow.db"))
    run = tracked(store, None)
    with pytest.raises(TrackingError, match="holds no exported model"):
        register_model(run, locate(str(tmp_path / "nothing")), name, {}, "best")
    assert MlflowClient(store.uri).search_registered_models() == []
