"""Real servers, started once per session and only when a test asks for them; how processes share the tests out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import settings
from mlflow_database import new_database
from mlflow_server import MlflowServer, mlflow_server
from postgres_server import PostgresServer, postgres
from rclone_server import rclone
from s3_server import S3Server
from seaweedfs_server import seaweedfs
from sharing_out import FileByFile, place_in_order

settings.register_profile("busy-machine", deadline=None)
settings.load_profile("busy-machine")

# Threads of several processes that share few cores wait for each other more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shells have what they start in the background ignore Ctrl-C, and the programs of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

OTHER_VARIABLES = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place_in_order(item.nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile:
    return FileByFile(config, log)


@pytest.fixture(scope="session")
def seaweedfs_server() -> Iterator[S3Server]:
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[S3Server]:
    with rclone() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    if find_spec("pgserver") is None:
        pytest.skip("pgserver is not installed; it has no wheel for Linux on other machines than x86_64")
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("mlflow-on-sqlite")
    with mlflow_server(new_database(folder / "mlflow.db"), f"{folder}/files", folder) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_on_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server whose store takes the same point as often as it is sent."""
    folder = tmp_path_factory.mktemp("mlflow-on-files")
    allowed = {"MLFLOW_ALLOW_FILE_STORE": "true"}
    with mlflow_server(f"{folder}/store", f"{folder}/files", folder, allowed) as server:
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
