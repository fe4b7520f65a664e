"""The stores that a run may be tracked in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_database import new_database
from mlflow_server import MlflowServer
from postgres_server import PostgresServer
from s3_server import S3Server
from tracking import Store


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


@pytest.fixture(scope="session")
def postgres_uri(postgres_server: PostgresServer) -> str:
    return postgres_server.make_database()


@pytest.fixture(params=["files", "sqlite", "server", "postgresql and s3"])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    log_in: Callable[[S3Server], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Store:
    """Each of the stores in turn; files on S3 for PostgreSQL, on disk for the others."""
    if request.param == "files":
        return Store((tmp_path / "mlruns").as_uri())
    if request.param == "sqlite":
        return Store(request.getfixturevalue("sqlite_uri"))
    if request.param == "server":
        server: MlflowServer = request.getfixturevalue("mlflow_on_sqlite")
        return Store(server.uri)
    database: PostgresServer = request.getfixturevalue("postgres_server")
    objects: S3Server = request.getfixturevalue("seaweedfs_server")
    log_in(objects)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", objects.endpoint)
    secrets = (database.password, database.password.replace("%40", "@"), objects.secret_key)
    return Store(request.getfixturevalue("postgres_uri"), f"s3://{objects.make_bucket()}/files", secrets)
