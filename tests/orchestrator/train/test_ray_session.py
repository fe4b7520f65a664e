"""A local Ray, and what is seen before a cluster is joined; test_local_cluster.py joins a real one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import ray
from processes import free_ports

import orchestrator
from orchestrator.config.errors import ConfigError
from orchestrator.config.recipe import ScaleSection
from orchestrator.storage.ray_folder import LONGEST_FOLDER
from orchestrator.train.ray_session import JoinError, RaySessionError, prepare_joining, ray_session, token_problem

SMALL = ScaleSection(object_store_mb=100)


def test_workers_import_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But they have the modules that the driver gets from PYTHONPATH."""
    here, site = tmp_path / "here", tmp_path / "site"
    for name in ("torch", "workloads", "orchestrator", "third_party"):
        folder = (site if name == "third_party" else here) / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError\n")
    project = Path(orchestrator.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{project}:{site}")
    monkeypatch.chdir(here)

    def origins() -> list[str]:
        names = ("torch", "workloads", "orchestrator", "third_party")
        return [str(spec.origin) for spec in map(find_spec, names) if spec is not None]

    with ray_session(SMALL, 1, tmp_path / "ray.log"):
        seen = ray.get(ray.remote(origins).remote(), timeout=120)
    assert len(seen) == 4
    assert not [origin for origin in seen if origin.startswith(str(here))]
    assert seen[1:3] == [str(project / name / "__init__.py") for name in ("workloads", "orchestrator")]


def test_a_folder_that_is_too_long_for_sockets_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * LONGEST_FOLDER)
    with (
        pytest.raises(ConfigError, match=r"/x+ has 40 bytes.* exceed the 107 bytes .* Set RAY_TMPDIR"),
        ray_session(SMALL, 1, tmp_path / "ray.log"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_an_error_of_rays_own_start_is_told_and_its_traceback_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path("/dev/null")
    monkeypatch.setenv("RAY_TMPDIR", str(file))
    with (
        pytest.raises(RaySessionError, match=r"cannot be started on this machine \(\w+Error: .*/dev/null"),
        ray_session(SMALL, 1, tmp_path / "ray.log"),
    ):
        pass
    assert "Traceback" in (tmp_path / "ray.log").read_text()
    assert not ray.is_initialized()


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
