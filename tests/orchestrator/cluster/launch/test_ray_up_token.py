"""The token of a cluster of Ray's launcher, and what a job server that does not fit is told apart by."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.launcher import server_problem
from orchestrator.cluster.launch.ray_up import ensure_token, read_token, token_source

FILE = Path("lab.yaml")


@pytest.mark.parametrize("on_node", ["~/.ray/auth_token", "/home/ubuntu/.ray/auth_token"])
def test_the_token_is_the_file_that_is_mounted(on_node: str) -> None:
    assert token_source({"file_mounts": {"/data": "/data", on_node: "/keys/token"}}, FILE) == Path("/keys/token")
    assert token_source({"file_mounts": {on_node: "~/t"}}, FILE) == Path.home() / "t"


@pytest.mark.parametrize("settings", [{}, {"file_mounts": None}, {"file_mounts": {"~/auth_token": "x"}}])
def test_a_cluster_without_a_token_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ClusterError, match=r"lab\.yaml: no token is mounted on the nodes.*add .* to file_mounts"):
        token_source(settings, FILE)


def test_a_token_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    source = tmp_path / "ray" / "auth_token"
    ensure_token(source)
    token = read_token(source)
    assert len(token) == 64
    assert source.stat().st_mode & 0o777 == 0o600
    assert source.parent.stat().st_mode & 0o777 == 0o700
    ensure_token(source)
    assert read_token(source) == token


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    source = tmp_path / "auth_token"
    source.write_text("abc")
    source.chmod(mode)
    for look in (ensure_token, read_token):
        with pytest.raises(ClusterError, match=rf"run: chmod 600 {source}"):
            look(source)


def test_a_token_that_is_empty_or_elsewhere_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "auth_token"
    with pytest.raises(ClusterError, match=r"cannot be read .* copy it from the machine that started"):
        read_token(source)
    source.touch(mode=0o600)
    with pytest.raises(ClusterError, match="is empty; copy it"):
        read_token(source)


@pytest.mark.parametrize(
    ("with_token", "without", "problem"),
    [
        (200, 401, None),
        (None, None, "does not answer"),
        (401, 401, "refuses the token of the file"),
        (403, 401, "refuses the token of the file"),
        (200, 200, "requires no token, so anyone who reaches it can run code"),
        (404, 404, r"not Ray's job server \(HTTP status 404\)"),
    ],
)
def test_a_job_server_is_good_or_it_is_said_why_not(
    with_token: int | None, without: int | None, problem: str | None
) -> None:
    import re

    found = server_problem(with_token, without, "the file")
    assert found is None if problem is None else found is not None and re.search(problem, found)
