"""What MLflow answers at the start of a run, when one is resumed, and to whoever reads it: each in its own words."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer
from s3_server import S3Server
from tracking import NOON_MS, Pauses, Store, logged, once, points
from unreliable_proxy import Fault, Request, UnreliableProxy, unreliable

from orchestrator.track.client import store_path
from orchestrator.track.mlflow_errors import AccessDeniedError, TrackingError, TrackingUnavailableError
from orchestrator.track.run_writer import TrackedRun
from orchestrator.track.tracker import Tracker


def start(uri: str, experiment: str = "", pauses: Pauses | None = None) -> Tracker:
    name = experiment or f"e-{secrets.token_hex(4)}"
    return Tracker.start(uri, name, "name", {}, lambda _: None, outboxes=(pauses or Pauses()).outboxes())


def read(uri: str, run_id: str) -> object:
    return TrackedRun(uri, run_id).curves()


def ended_run(uri: str, experiment: str = "") -> str:
    tracker = start(uri, experiment)
    assert tracker.finish("KILLED", NOON_MS) is None
    return tracker.run_id


@pytest.fixture
def gateway(mlflow_on_sqlite: MlflowServer) -> Iterator[UnreliableProxy]:
    with unreliable(S3Server(mlflow_on_sqlite.uri)) as proxy:
        yield proxy


def always(fault: Fault) -> Callable[[Request], Fault]:
    return lambda _: fault


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.LOGIN, r"wants a login \(401\): .*not authenticated.*MLFLOW_TRACKING_USERNAME.*MLFLOW_TRACKING_TOKEN"),
        (
            Fault.FORBIDDEN,
            r"denies access \(403\): .*Permission denied.*permitted to write to tracking\.experiment",
        ),
    ],
)
def test_denied_access_is_told_as_such(gateway: UnreliableProxy, fault: Fault, words: str) -> None:
    uri = gateway.server.endpoint
    run_id = ended_run(uri)
    gateway.plan = always(fault)
    for action in (lambda: start(uri), lambda: read(uri, run_id)):
        with pytest.raises(AccessDeniedError, match=words):
            action()


def test_a_resumed_run_trains_on_while_access_is_denied_and_says_what_helps(gateway: UnreliableProxy) -> None:
    uri, told, pauses = gateway.server.endpoint, list[str](), Pauses()
    run_id = ended_run(uri)
    gateway.plan = always(Fault.LOGIN)
    tracker = Tracker.resume(uri, run_id, told.append, pauses.outboxes())
    tracker.step(points(0))
    pauses.then = lambda: setattr(gateway, "plan", lambda _: None)
    assert tracker.finish("FINISHED", NOON_MS) is None
    assert logged(uri, run_id) == once(range(1), "loss", "samples")
    assert told[0].startswith("MLflow takes nothing (")
    assert "MLFLOW_TRACKING_TOKEN" in told[0]
    assert "Training continues" in told[0]


def test_a_host_name_that_the_server_does_not_allow(mlflow_on_sqlite: MlflowServer) -> None:
    """127.1 is 127.0.0.1, and not among the names that a server allows by default."""
    run_id = ended_run(mlflow_on_sqlite.uri)
    foreign = f"http://127.1:{mlflow_on_sqlite.port}"
    for action in (lambda: start(foreign), lambda: read(foreign, run_id)):
        with pytest.raises(AccessDeniedError, match=r"under the host name 127\.1 \(403.*--allowed-hosts '127\.1:\*,"):
            action()


def test_an_address_at_which_something_else_answers(mlflow_on_sqlite: MlflowServer) -> None:
    for path in ("/nowhere", "/static-files"):
        with pytest.raises(TrackingError, match="something answers, but not as MLflow does") as refused:
            start(mlflow_on_sqlite.uri + path)
        assert not isinstance(refused.value, TrackingUnavailableError)


def test_a_server_that_fails_may_recover(gateway: UnreliableProxy) -> None:
    gateway.plan = always(Fault.SLOW_DOWN)
    with pytest.raises(TrackingUnavailableError, match=r"MLflow fails to answer \(503\)"):
        start(gateway.server.endpoint)
    gateway.plan = always(Fault.RESET)
    with pytest.raises(TrackingUnavailableError, match=r"MLflow cannot be reached.*Check tracking\.uri"):
        start(gateway.server.endpoint)


def test_a_deleted_experiment_is_refused_until_it_is_restored(store: Store) -> None:
    experiment = f"e-{secrets.token_hex(4)}"
    run_id = ended_run(store.uri, experiment)
    client = MlflowClient(store.uri)
    key = client.get_run(run_id).info.experiment_id
    client.delete_experiment(key)
    words = rf"the experiment '{experiment}' \({key}\) is deleted .*mlflow experiments restore --experiment-id {key}`"
    with pytest.raises(TrackingError, match=words):
        start(store.uri, experiment)
    for action in (lambda: read(store.uri, run_id), lambda: Tracker.resume(store.uri, run_id, print)):
        with pytest.raises(TrackingError, match=rf"{words}|is deleted in MLflow.*mlflow runs restore"):
            action()
    client.restore_experiment(key)
    assert start(store.uri, experiment).finish("KILLED", NOON_MS) is None


def test_a_deleted_run_is_refused_until_it_is_restored(store: Store) -> None:
    run_id = ended_run(store.uri)
    client = MlflowClient(store.uri)
    client.delete_run(run_id)
    words = rf"the run \({run_id}\) is deleted in MLflow.*mlflow runs restore --run-id {run_id}`"
    for action in (lambda: read(store.uri, run_id), lambda: Tracker.resume(store.uri, run_id, print)):
        with pytest.raises(TrackingError, match=words):
            action()
    client.restore_run(run_id)
    assert TrackedRun(store.uri, run_id).status() == "KILLED"


def test_a_run_that_is_deleted_while_it_trains_gets_everything_once_it_is_restored(store: Store) -> None:
    told, pauses = list[str](), Pauses()
    tracker = Tracker.start(store.uri, "deleted", "name", {}, told.append, store.artifacts, pauses.outboxes())
    tracker.step(points(0))
    assert tracker.wait(60)
    client = MlflowClient(store.uri)
    client.delete_run(tracker.run_id)
    pauses.then = lambda: client.restore_run(tracker.run_id) if len(pauses.taken_s) == 2 else None
    tracker.step(points(1))
    assert tracker.finish("FINISHED", NOON_MS) is None
    assert logged(store.uri, tracker.run_id) == once(range(2), "loss", "samples")
    assert f"mlflow runs restore --run-id {tracker.run_id}" in told[0]


def test_a_file_store_has_to_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is moved because MLflow's client keeps those that it has opened."""
    run_id = ended_run((tmp_path / "mlruns").as_uri())
    uri = Path(shutil.move(tmp_path / "mlruns", tmp_path / "moved")).as_uri()
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    actions = (lambda: start(uri), lambda: read(uri, run_id), lambda: Tracker.resume(uri, run_id, print))
    for action in actions:
        with pytest.raises(TrackingError, match=r"plain files.*sqlite:///.*MLFLOW_ALLOW_FILE_STORE=true") as refused:
            action()
        assert not isinstance(refused.value, TrackingUnavailableError)


@pytest.mark.parametrize("uri", ["sqlite:///{}/gone/mlflow.db", "file://{}/gone/mlruns", "{}/gone/mlruns"])
def test_whoever_reads_makes_no_store(uri: str, tmp_path: Path) -> None:
    place = uri.format(tmp_path)
    for action in (lambda: read(place, "0" * 32), lambda: Tracker.resume(place, "0" * 32, print)):
        with pytest.raises(TrackingError, match=r"there is no such MLflow store\. Put it back"):
            action()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_place_is_looked_for_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match=rf"below {tmp_path}, the current folder.*use the run from there"):
        read("sqlite:///runs/mlflow.db", "0" * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///runs/mlflow.db?timeout=5", Path("runs/mlflow.db")),
        ("sqlite:////runs/mlflow.db", Path("/runs/mlflow.db")),
        ("file:///a%20b/mlruns", Path("/a b/mlruns")),
        ("mlruns", Path("mlruns")),
        ("http://mlflow:5000", None),
        ("postgresql://host/db", None),
        ("databricks", None),
    ],
)
def test_which_stores_are_on_this_machine(uri: str, path: Path | None) -> None:
    assert store_path(uri) == path


def test_the_last_value_of_a_step_counts_although_it_is_smaller_and_its_clock_is_behind(store: Store) -> None:
    """MLflow itself takes the later of two values, and of two at the same time the larger."""
    run_id = ended_run(store.uri)
    for value, now_ms in ((0.9, NOON_MS), (0.5, NOON_MS), (0.3, NOON_MS - 60_000)):
        TrackedRun(store.uri, run_id, lambda now_ms=now_ms: now_ms).add(7, {"evaluation/recall@1": value})
    assert MlflowClient(store.uri).get_run(run_id).data.metrics["evaluation/recall_at_1"] == 0.3
    assert TrackedRun(store.uri, run_id).curve("evaluation/recall@1") == ([7], [0.3])
