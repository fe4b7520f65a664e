"""What is seen before a cluster is joined; test_local_cluster.py joins a real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import free_ports

from orchestrator.train.ray_session import JoinError, prepare_joining, token_problem


def test_a_token_is_taken_from_where_ray_takes_it(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("abc\n")
    assert token_problem({"RAY_AUTH_TOKEN": "abc", "RAY_AUTH_TOKEN_PATH": "/nowhere"}, tmp_path) is None
    assert token_problem({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "given")}, tmp_path) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("abc")
    assert token_problem({}, tmp_path) is None


def test_a_token_that_is_not_there_or_empty_is_complained_about(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    missing = token_problem({"RAY_AUTH_TOKEN": " "}, tmp_path)
    assert missing is not None
    assert missing.startswith(
        f"the token {tmp_path / '.ray' / 'auth_token'} cannot be read (No such file or directory)"
    )
    empty = token_problem({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "empty")}, tmp_path)
    assert empty is not None
    assert "is empty; set RAY_AUTH_TOKEN_PATH" in empty


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(JoinError, match=f"no Ray cluster answers at {address} \\(Connection refused\\)"):
        prepare_joining(address)


def test_joining_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(JoinError, match=r"the cluster at auto cannot be joined: the token .*auth_token cannot be read"):
        prepare_joining("auto")
