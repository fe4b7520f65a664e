"""A server that is killed, hangs or answers badly: the driver never waits, and every metric arrives once."""

import os
import secrets
import threading
from collections.abc import Callable

import pytest
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer
from s3_server import S3Server
from tracking import NOON_MS, Pauses, logged, once, points
from unreliable_proxy import Fault, Request, seeded, unreliable

from orchestrator.track.client import CLIENT_DEFAULTS, connect
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.tracker import Tracker

BEFORE, AWAY = range(10), range(10, 40)


def start(uri: str, pauses: Pauses, told: list[str], timeout_s: float = 60.0) -> Tracker:
    return Tracker.start(uri, f"e-{secrets.token_hex(4)}", "name", {}, told.append, outboxes=pauses.outboxes(timeout_s))


def train_while_away(
    server: MlflowServer, leave: Callable[[], None], come_back: Callable[[], None]
) -> tuple[list[str], str]:
    """Report steps before and while a server is away; it comes back only after all have been reported.

    So a driver that waited for it would wait for ever.
    """
    done_training = threading.Event()
    came_back = threading.Event()
    coming_back = threading.Lock()

    def after_a_pause() -> None:
        with coming_back:
            if done_training.is_set() and len(pauses.taken_s) > 3 and not came_back.is_set():
                come_back()
                came_back.set()

    told: list[str] = []
    pauses = Pauses(after_a_pause)
    tracker = start(server.uri, pauses, told, timeout_s=1e9)
    for step in BEFORE:
        tracker.step(points(step))
    leave()
    for step in AWAY:
        tracker.step(points(step))
        tracker.tags({"last": str(step)})
    tracker.params({"one": 1})
    tracker.text("text", "recipe.yaml")
    done_training.set()
    assert tracker.finish("FINISHED", NOON_MS) is None
    assert came_back.is_set()
    return told, tracker.run_id


def check_nothing_shows(server: MlflowServer, run_id: str, told: list[str]) -> None:
    assert logged(server.uri, run_id) == once(range(40), "loss", "samples")
    run = MlflowClient(server.uri).get_run(run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", NOON_MS)
    assert run.data.params == {"one": "1"}
    assert run.data.tags["last"] == "39"
    away, back = ([text for text in told if word in text] for word in ("MLflow does not answer", "MLflow is back"))
    assert (len(away), len(back)) == (1, 1)


def test_a_server_that_is_killed_and_started_again(mlflow_on_sqlite: MlflowServer) -> None:
    told, run_id = train_while_away(mlflow_on_sqlite, mlflow_on_sqlite.kill, mlflow_on_sqlite.start)
    check_nothing_shows(mlflow_on_sqlite, run_id, told)


def test_a_server_that_hangs(mlflow_on_sqlite: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that were given up are still carried out once it goes on, beside those that were sent again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    told, run_id = train_while_away(mlflow_on_sqlite, mlflow_on_sqlite.freeze, mlflow_on_sqlite.thaw)
    check_nothing_shows(mlflow_on_sqlite, run_id, told)


@pytest.mark.parametrize("kind", ["mlflow_on_sqlite", "mlflow_on_files"])
def test_answers_that_are_lost_double_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    """Every request is carried out, and the answer to every other one is broken off."""

    def plan(asked: Request) -> Fault | None:
        return Fault.TRUNCATED if "log-batch" in asked.target and asked.attempt % 2 else None

    server: MlflowServer = request.getfixturevalue(kind)
    with unreliable(S3Server(server.uri), plan) as proxy:
        tracker = start(proxy.server.endpoint, Pauses(), [])
        for step in range(30):
            tracker.step(points(step, **{f"m{number}": float(step) for number in range(100)}))
        assert tracker.finish("FINISHED", NOON_MS) is None
        assert proxy.injected[Fault.TRUNCATED] >= 2
    names = ["samples", *(f"m{number}" for number in range(100))]
    assert logged(server.uri, tracker.run_id) == once(range(30), *names)


@pytest.mark.parametrize("kind", ["mlflow_on_sqlite", "mlflow_on_files"])
def test_a_server_that_fails_at_random(kind: str, request: pytest.FixtureRequest) -> None:
    server: MlflowServer = request.getfixturevalue(kind)
    rates = {Fault.RESET: 0.2, Fault.SLOW_DOWN: 0.2, Fault.TRUNCATED: 0.2}
    with unreliable(S3Server(server.uri)) as proxy:
        tracker = start(proxy.server.endpoint, Pauses(), [], timeout_s=1e9)
        proxy.plan = seeded(7, rates)
        for step in range(60):
            tracker.step(points(step, **{f"m{number}": float(step) for number in range(100)}))
        tracker.tags({"a": "b"})
        tracker.text("text", "recipe.yaml")
        assert tracker.finish("FINISHED", NOON_MS) is None
        assert set(proxy.injected) == set(rates)
    assert logged(server.uri, tracker.run_id) == once(range(60), "samples", *(f"m{number}" for number in range(100)))
    assert MlflowClient(server.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_run_is_resumed_while_the_server_is_away(mlflow_on_sqlite: MlflowServer) -> None:
    told: list[str] = []
    with unreliable(S3Server(mlflow_on_sqlite.uri)) as proxy:
        first = start(proxy.server.endpoint, Pauses(), told)
        for step in range(5):
            first.step(points(step))
        assert first.finish("FAILED", NOON_MS) is None
        proxy.plan = lambda _: Fault.RESET
        pauses = Pauses()
        second = Tracker.resume(proxy.server.endpoint, first.run_id, told.append, pauses.outboxes())
        for step in range(3, 8):
            second.step(points(step))
        pauses.then = lambda: setattr(proxy, "plan", lambda _: None)
        assert second.finish("FINISHED", NOON_MS + 1) is None
    assert logged(mlflow_on_sqlite.uri, first.run_id) == once(range(8), "loss", "samples")


def test_the_end_of_a_run_does_not_wait_for_ever(mlflow_on_sqlite: MlflowServer) -> None:
    with unreliable(S3Server(mlflow_on_sqlite.uri)) as proxy:
        pauses = Pauses()
        tracker = start(proxy.server.endpoint, pauses, [])
        proxy.plan = lambda _: Fault.RESET
        steps = [points(step) for step in range(50)]
        for step in steps:
            tracker.step(step)
        tracker.text("text", "recipe.yaml")
        unsent = tracker.finish("FINISHED", NOON_MS)
    assert unsent is not None
    assert unsent.lines == tuple(step.line for step in steps)
    assert unsent.others == ("the status", "recipe.yaml")
    assert 60 <= pauses.now_s < 400


def test_a_new_run_needs_the_server(mlflow_on_sqlite: MlflowServer) -> None:
    with unreliable(S3Server(mlflow_on_sqlite.uri), lambda _: Fault.RESET) as proxy:
        address = proxy.server.endpoint.replace("http://", "http://me:hunter2@")
        with pytest.raises(TrackingError, match=r"MLflow cannot be reached.*tracking.uri") as refused:
            start(address, Pauses(), [])
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_users_own_settings_of_the_client_stay(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CLIENT_DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    connect(sqlite_uri)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
