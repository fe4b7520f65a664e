"""Stores that do not let us in, or are not there: a clear message, soon."""

import socket
import time
from collections.abc import Callable

import pytest
from processes import free_ports
from s3_server import S3Server

from orchestrator.storage import filesystem
from orchestrator.storage.location import Location, locate
from orchestrator.storage.range_reader import FileRange, read_ranges
from orchestrator.storage.retry import StorageError

ACTIONS: dict[str, Callable[[Location], object]] = {
    "read": lambda place: place.read(),
    "ranges": lambda place: read_ranges([FileRange(place, 0, 10)]),
    "write": lambda place: place.write(b"content"),
    "list": lambda place: place.list(),
    "sizes": lambda place: place.sizes(),
    "exists": lambda place: place.exists(),
    "delete": lambda place: place.delete(),
}


QUICK_S = 60
"""No limit of the libraries is shorter; the slowest machine needs less."""


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts that take no time; they are collected."""
    waits: list[float] = []
    monkeypatch.setattr("orchestrator.storage.retry.sleep", waits.append)
    return waits


def refusal(action: str, place: Location) -> tuple[str, float]:
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        ACTIONS[action](place)
    return str(caught.value), time.monotonic() - started


@pytest.mark.parametrize("name", ["seaweedfs", "rclone"])
@pytest.mark.parametrize("wrong", ["unknown key", "wrong secret"])
def test_wrong_credentials_fail_fast_and_stay_secret(
    name: str,
    wrong: str,
    request: pytest.FixtureRequest,
    log_in: Callable[[S3Server], None],
    monkeypatch: pytest.MonkeyPatch,
    unhurried: list[float],
) -> None:
    server: S3Server = request.getfixturevalue(f"{name}_server")
    log_in(server)
    bucket = server.make_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-is-wrong")
    if wrong == "unknown key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key-nobody-knows")
    for action in ACTIONS:
        message, took_s = refusal(action, locate(f"s3://{bucket}/x", server.endpoint))
        assert "access was denied" in message
        assert "AWS_ACCESS_KEY_ID" in message
        assert "~/.aws/credentials" in message
        assert unhurried == []
        assert took_s < QUICK_S
        for secret in (server.access_key, server.secret_key, "a-secret-that-is-wrong", "a-key-nobody-knows"):
            assert secret not in message


def test_no_credentials_at_all(
    seaweedfs_server: S3Server,
    log_in: Callable[[S3Server], None],
    monkeypatch: pytest.MonkeyPatch,
    unhurried: list[float],
) -> None:
    log_in(seaweedfs_server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    message, took_s = refusal("list", locate("s3://bucket/x", seaweedfs_server.endpoint))
    assert "AWS_ACCESS_KEY_ID" in message
    assert unhurried == []
    assert took_s < QUICK_S


@pytest.mark.parametrize("action", ACTIONS)
def test_a_dead_endpoint_is_named(
    action: str, seaweedfs_server: S3Server, log_in: Callable[[S3Server], None], unhurried: list[float]
) -> None:
    log_in(seaweedfs_server)
    (port,) = free_ports(1)
    message, took_s = refusal(action, locate("s3://bucket/x", f"http://127.0.0.1:{port}"))
    assert "after 4 attempts: nothing answers at the address" in message
    assert "storage.endpoint" in message
    assert str(port) in message
    assert sum(unhurried) < 10
    assert took_s < QUICK_S


def test_a_silent_endpoint_is_left_in_the_end(
    seaweedfs_server: S3Server,
    log_in: Callable[[S3Server], None],
    unhurried: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_in(seaweedfs_server)
    monkeypatch.setattr(filesystem, "REQUEST_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = locate("s3://bucket/x", f"http://127.0.0.1:{silent.getsockname()[1]}")
        message, _ = refusal("exists", place)
    assert "after 4 attempts: the store did not answer in time" in message
    assert len(unhurried) == 3
