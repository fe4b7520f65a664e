"""Real servers, started once per session and only when a test asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from rclone_server import rclone
from s3_server import S3Server
from seaweedfs_server import seaweedfs

settings.register_profile("busy-machine", deadline=None)
settings.load_profile("busy-machine")

OTHER_VARIABLES = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@pytest.fixture(scope="session")
def seaweedfs_server() -> Iterator[S3Server]:
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[S3Server]:
    with rclone() as server:
        yield server


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[S3Server], None]:
    """Give this process the credentials of a server until the test ends."""

    def use(server: S3Server) -> None:
        for name in OTHER_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)

    return use
