from __future__ import annotations

import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster.doctor.services import (
    check_credentials,
    check_storage,
    check_tracking,
    credentials_provider,
    mask_passwords,
)
from orchestrator.cluster.findings import Level, with_timeout

SECRET = "not-for-anyone"  # noqa: S105


@pytest.fixture
def bare_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """AWS credentials that come from nowhere."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_no_credentials_are_fine(bare_aws: pytest.MonkeyPatch) -> None:
    finding = check_credentials(credentials_provider)
    assert finding.level == "pass"
    assert "none for S3" in finding.found


def test_provider_is_named_and_its_secret_is_not(bare_aws: pytest.MonkeyPatch) -> None:
    bare_aws.setenv("AWS_ACCESS_KEY_ID", SECRET)
    bare_aws.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    finding = check_credentials(credentials_provider)
    assert finding.level == "pass"
    assert "environment variables" in finding.found
    assert SECRET not in str(finding)


def test_credentials_file_is_named(bare_aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = f"[default]\naws_access_key_id = {SECRET}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "credentials").write_text(file)
    assert "shared credentials file" in check_credentials(credentials_provider).found


def test_half_a_credential_is_an_error(bare_aws: pytest.MonkeyPatch) -> None:
    bare_aws.setenv("AWS_ACCESS_KEY_ID", SECRET)
    finding = check_credentials(credentials_provider)
    assert finding.level == "error"
    assert "AWS_SECRET_ACCESS_KEY" in finding.found
    assert SECRET not in str(finding)


def test_unknown_provider_is_shown_as_boto3_calls_it() -> None:
    assert "from some-new-method" in check_credentials(lambda: "some-new-method").found


def test_storage_that_can_be_listed(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    finding = check_storage(str(tmp_path), None)
    assert finding.level == "pass"
    assert "1 entries" in finding.found


@pytest.mark.parametrize(("uri", "level", "part"), [("none", "warning", "nothing is there"), ("x://y", "error", "'x'")])
def test_storage_that_cannot(tmp_path: Path, uri: str, level: Level, part: str) -> None:
    finding = check_storage(uri if "://" in uri else str(tmp_path / uri), None)
    assert finding.level == level
    assert part in finding.found


def test_storage_behind_a_closed_port(bare_aws: pytest.MonkeyPatch, closed_port: int) -> None:
    finding = check_storage("s3://bucket/folder", f"http://127.0.0.1:{closed_port}")
    assert finding.level == "error"
    assert "s3://bucket/folder" in finding.found
    assert "--endpoint" in finding.fix


def test_tracking_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    assert check_tracking(f"sqlite:///{file}").level == "warning"
    assert not file.exists()


def test_file_that_is_no_tracking_store(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one" * 20)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE things (name TEXT)")
    for name in ("text.db", "other.db"):
        finding = check_tracking(f"sqlite:///{tmp_path / name}")
        assert finding.level == "error"
        assert "is not an MLflow store" in finding.found


def test_real_tracking_store(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("one")
    assert check_tracking(uri).level == "pass"
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "old.db")
    with sqlite3.connect(tmp_path / "old.db") as store:
        store.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    old = check_tracking(f"sqlite:///{tmp_path / 'old.db'}")
    assert old.level == "error"
    assert "mlflow db upgrade sqlite:///" in old.fix


def test_tracking_server_behind_a_closed_port(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    finding = check_tracking(f"http://user:{SECRET}@127.0.0.1:{closed_port}")
    assert finding.level == "error"
    assert "user:***@127.0.0.1" in finding.found
    assert SECRET not in str(finding)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg2://me:pass@host/db refused", "postgresql+psycopg2://me:***@host/db refused"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:///runs/mlflow.db", "sqlite:///runs/mlflow.db"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert mask_passwords(text) == shown


def test_patience() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        with_timeout(0.01, never.wait)
    never.set()
    assert with_timeout(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        with_timeout(5, lambda: 1 / 0)
