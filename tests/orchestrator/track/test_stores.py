"""A tracked run in every kind of store: files, SQLite, a server, and PostgreSQL with its files on S3."""

import math
import secrets
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient
from tracking import NOON_MS, Pauses, Store, line, logged, once, points

from orchestrator.storage.location import locate
from orchestrator.track.metric_log import MetricLog
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.run_writer import Points, TrackedRun
from orchestrator.track.tracker import Tracker


def start(store: Store, told: list[str], tags: dict[str, str] | None = None) -> Tracker:
    name = f"experiment-{secrets.token_hex(4)}"
    return Tracker.start(
        store.uri, name, "name", tags or {}, told.append, store.artifacts, outboxes=Pauses().outboxes()
    )


def begin(store: Store, experiment: str, tags: dict[str, str], name: str = "name") -> Tracker:
    return Tracker.start(
        store.uri, experiment, name, tags, lambda _: None, store.artifacts, outboxes=Pauses().outboxes()
    )


def resume(store: Store, run_id: str, told: list[str]) -> Tracker:
    return Tracker.resume(store.uri, run_id, told.append, Pauses().outboxes())


def test_everything_arrives(store: Store, tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"layers": 2}')
    (tmp_path / "model" / "weights").write_bytes(bytes(range(256)) * 100)
    tracker = start(store, told, {"run_folder": "here"})
    for _ in range(2):
        tracker.params({"a": {"b": 1, "c": [1, 2]}, "long": "x" * 2000, **{f"p{number}": 0 for number in range(150)}})
    tracker.tags({"event/0001": '{"step":3}', "recoveries": "1"})
    tracker.text("grüße", "recipe.yaml")
    tracker.copy(locate(str(tmp_path / "model")), "model")
    for step in range(300):
        tracker.step(points(step, loss=1.0 / (step + 1), **{"held_out/recall@10": 0.25}))
    assert tracker.finish("FINISHED", NOON_MS) is None
    assert told == []

    run = MlflowClient(store.uri).get_run(tracker.run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", NOON_MS)
    assert (run.data.params["a.b"], run.data.params["a.c"], len(run.data.params["long"])) == ("1", "[1, 2]", 500)
    assert len(run.data.params) == 153
    assert {name: run.data.tags[name] for name in ("event/0001", "recoveries", "run_folder")} == {
        "event/0001": '{"step":3}',
        "recoveries": "1",
        "run_folder": "here",
    }
    expected = once(range(300), "loss", "held_out/recall_at_10", "samples")
    assert logged(store.uri, tracker.run_id) == expected
    assert TrackedRun(store.uri, tracker.run_id).curves()["held_out/recall@10"] == (list(range(300)), [0.25] * 300)
    for name in ("config.json", "weights"):
        found = download_artifacts(run_id=tracker.run_id, artifact_path=f"model/{name}", tracking_uri=store.uri)
        assert Path(found).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert MlflowClient(store.uri).get_run(tracker.run_id).info.artifact_uri.startswith(store.artifacts or "")
    found = download_artifacts(run_id=tracker.run_id, artifact_path="recipe.yaml", tracking_uri=store.uri)
    assert Path(found).read_text() == "grüße"


def test_steps_are_there_once_after_crashes_resumes_and_holes(store: Store, tmp_path: Path) -> None:
    """Steps 3 to 5 never arrived; 6 to 9 did, beyond the checkpoint at step 8, after which the driver died."""
    first = start(store, [])
    for step in (*range(3), *range(6, 10)):
        first.step(points(step, loss=float(step)))
    assert first.finish("KILLED", NOON_MS) is None
    log = MetricLog(locate(str(tmp_path / "metrics")))
    for step in range(12):
        log.add(line(step, loss=float(step)))
    log.flush()

    second = resume(store, first.run_id, [])
    assert TrackedRun(store.uri, first.run_id).status() == "RUNNING"
    second.catch_up(locate(str(tmp_path / "metrics")), lambda lines: (Points(one, one.metrics) for one in lines), 8)
    for step in (*range(8, 14), *range(11, 16)):
        second.step(points(step, loss=float(step)))
    assert second.finish("KILLED", NOON_MS) is None
    assert logged(store.uri, first.run_id) == once(range(16), "loss", "samples")
    found = TrackedRun(store.uri, first.run_id)
    assert found.curves()["loss"][1] == [float(step) for step in range(16)]
    assert found.status() == "KILLED"


def test_numbers_that_are_none_arrive(store: Store) -> None:
    told: list[str] = []
    tracker = start(store, told)
    for step, loss in enumerate((1.0, math.nan, math.inf, -math.inf, 2.0)):
        tracker.step(points(step, loss=loss))
    assert tracker.finish("FAILED", NOON_MS) is None
    assert told == []
    assert logged(store.uri, tracker.run_id) == once(range(5), "loss", "samples")
    assert math.isnan(TrackedRun(store.uri, tracker.run_id).curves()["loss"][1][1])


def test_what_the_store_refuses_is_told_and_holds_nothing_up(store: Store) -> None:
    told: list[str] = []
    tracker = start(store, told)
    tracker.params({"good": 1, "bad*": 2})
    tracker.tags({"bad*": "x", "good": "y"})
    for step in range(3):
        tracker.step(points(step, loss=1.0, **{"bad*": 1.0}))
    assert tracker.finish("FINISHED", NOON_MS) is None
    run = MlflowClient(store.uri).get_run(tracker.run_id)
    assert run.data.params == {"good": "1"}
    assert run.data.tags["good"] == "y"
    assert logged(store.uri, tracker.run_id) == once(range(3), "loss", "samples")
    assert [text.partition(":")[0] for text in told[:-1]] == [
        f"MLflow refuses the {kind} 'bad*', which are left out" for kind in ("parameters", "tags", "metrics")
    ]
    assert told[-1] == "MLflow refused 5 values of bad*; they are in the run's folder."


def test_an_unknown_run_is_explained(store: Store) -> None:
    start(store, []).finish("KILLED", NOON_MS)
    with pytest.raises(TrackingError, match="MLflow has no run 0000"):
        resume(store, "0" * 32, [])
    with pytest.raises(TrackingError, match="MLflow has no run 0000"):
        TrackedRun(store.uri, "0" * 32)


def test_a_run_that_its_driver_could_not_remember_is_taken_again(store: Store) -> None:
    experiment, tags = (
        f"experiment-{secrets.token_hex(4)}",
        {"run_folder": "s3://bucket/a b", "mlflow.parentRunId": "1"},
    )
    forgotten = begin(store, experiment, tags).run_id
    assert begin(store, experiment, tags, "other").run_id != forgotten
    assert begin(store, experiment, tags | {"run_folder": "it's"}).run_id != forgotten
    again = begin(store, experiment, tags)
    assert again.run_id == forgotten
    again.step(points(0, loss=1.0))
    assert again.wait(60)
    used = begin(store, experiment, tags)
    assert used.run_id != forgotten
    used.finish("KILLED", NOON_MS)
    assert begin(store, experiment, tags).run_id not in (used.run_id, forgotten)
