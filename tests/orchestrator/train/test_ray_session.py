"""The start of Ray, and what is seen before a cluster is joined; test_local_cluster.py joins a real one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import free_ports

from orchestrator.config.errors import ConfigError
from orchestrator.config.recipe import ScaleSection
from orchestrator.storage.ray_folder import LONGEST_FOLDER
from orchestrator.train.ray_session import (
    JoinError,
    RaySessionError,
    SamePathConfig,
    _explained,
    prepare_joining,
    ray_session,
    token_problem,
)


def test_workers_import_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the driver does; tests/e2e/test_budget.py trains beside modules that must not be imported."""
    here, script = tmp_path / "here", tmp_path / "script"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(script))
    assert _workers_path(here, script) == [str(script)]
    for same in ("", str(here)):
        with monkeypatch.context() as context:
            context.setattr(sys, "path", [same, *sys.path])
            assert _workers_path(here, script) == [str(here), str(script)]


def _workers_path(*folders: Path) -> list[str]:
    """Return which folders workers search when Ray wants them to search these."""
    config = SamePathConfig()
    config._py_driver_sys_path.extend(map(str, folders))
    return list(config._get_proto_job_config().py_driver_sys_path)


def test_a_folder_that_is_too_long_for_sockets_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * LONGEST_FOLDER)
    refusal = r"/x+ has 40 bytes.* exceed the 107 bytes .* Set RAY_TMPDIR"
    with pytest.raises(ConfigError, match=refusal), ray_session(ScaleSection(), 1, tmp_path / "ray.log"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "kind", "text"),
    [
        (
            "local",
            RaySessionError,
            r"Ray cannot be started on this machine \(ValueError: odd value\); .*log has the trace",
        ),
        ("auto", JoinError, r"the cluster at auto cannot be joined \(ValueError: odd value\); .*log has the traceback"),
    ],
)
def test_an_error_of_rays_own_is_told_in_its_words(
    address: str, kind: type[Exception], text: str, tmp_path: Path
) -> None:
    """Here one as Ray might raise it; tests/e2e/test_training.py has Ray raise one."""
    with pytest.raises(kind, match=text), _explained(address, tmp_path / "ray.log"):
        raise ValueError("odd value.\nmore")
    assert "Traceback" in (tmp_path / "ray.log").read_text()


def test_an_error_that_has_its_own_words_keeps_them(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match=r"^no token$"), _explained("auto", tmp_path / "ray.log"):
        raise JoinError("no token")


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
