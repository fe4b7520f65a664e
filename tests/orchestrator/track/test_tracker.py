"""MLflow runs on SQLite: curves without duplicates, true status."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.storage.location import locate
from orchestrator.track.tracker import Tracker, TrackingError


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def start(uri: str) -> Tracker:
    return Tracker.start(uri, "experiment", "name", {"run_folder": "here"})


def test_curves_come_back_as_they_were_logged(uri: str) -> None:
    tracker = start(uri)
    tracker.metrics(0, {"loss": 2.0})
    tracker.metrics(1, {"loss": 1.5, "held_out/text_to_image/recall@10": 0.25})
    tracker.flush()
    assert tracker.curves() == {
        "loss": ([0, 1], [2.0, 1.5]),
        "held_out/text_to_image/recall@10": ([1], [0.25]),
    }


def test_one_curve_is_read_by_its_name(uri: str) -> None:
    tracker = start(uri)
    tracker.add(3, {"loss": 2.0, "held_out/recall@10": 0.5})
    assert tracker.metric_names() == ["held_out/recall@10", "loss"]
    assert tracker.curve("held_out/recall@10") == ([3], [0.5])
    assert tracker.curve("unknown") == ([], [])


def test_steps_replayed_after_a_restart_are_logged_once(uri: str) -> None:
    first = start(uri)
    for step in range(6):
        first.metrics(step, {"loss": float(step)})
    first.flush()
    second = Tracker(uri, first.run_id)
    second.resume()
    for step in range(4, 9):
        second.metrics(step, {"loss": float(step)})
    second.finish("FINISHED")
    assert second.curves()["loss"] == (list(range(9)), [float(step) for step in range(9)])


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_status_is_true(uri: str, status: str) -> None:
    tracker = start(uri)
    tracker.finish(status)
    assert MlflowClient(uri).get_run(tracker.run_id).info.status == status


def test_parameters_are_flat_and_may_be_logged_again(uri: str) -> None:
    tracker = start(uri)
    for _ in range(2):
        tracker.params({"a": {"b": 1, "c": [1, 2]}, "long": "x" * 2000})
    params = MlflowClient(uri).get_run(tracker.run_id).data.params
    assert params["a.b"] == "1"
    assert params["a.c"] == "[1, 2]"
    assert len(params["long"]) == 500


def test_many_metrics_are_sent_in_batches(uri: str) -> None:
    tracker = start(uri)
    for step in range(300):
        tracker.metrics(step, dict.fromkeys(("loss", "a", "b", "c", "d"), 1.0))
    tracker.flush()
    assert len(tracker.curves()["d"][0]) == 300


def test_folders_are_stored_as_artifacts(uri: str, tmp_path: Path) -> None:
    tracker = start(uri)
    (tmp_path / "config.json").write_text("{}")
    tracker.copy(locate(str(tmp_path)), "model")
    found = MlflowClient(uri).list_artifacts(tracker.run_id, "model")
    assert [file.path for file in found] == ["model/config.json"]


def test_an_unreachable_store_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=r"MLflow cannot be reached.*tracking.uri"):
        Tracker.start(f"sqlite:///{tmp_path}/file/mlflow.db", "e", "n", {})


def test_an_unknown_run_is_explained(uri: str) -> None:
    with pytest.raises(TrackingError, match="has no run"):
        Tracker(uri, "0" * 32)


def test_the_address_may_come_from_the_environment(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI is not set"):
        start("environment")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert start("environment").curves() == {}
