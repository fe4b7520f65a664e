"""The state folder, finding heads, and what can go wrong before anything is started."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.kuberay import KubeRayLauncher
from orchestrator.cluster.launch.launcher import locked, state_folder
from orchestrator.cluster.launch.launchers import launcher_of
from orchestrator.cluster.launch.local import LocalLauncher, environment, start_command
from orchestrator.cluster.launch.ray_up import RayLauncher
from orchestrator.cluster.launch.subprocesses import ChildFailedError, query_child
from orchestrator.config.cluster import Cluster
from orchestrator.storage.local_files import write_private

Make = Callable[..., Cluster]


def test_every_kind_has_its_launcher(state: Path, make_cluster: Make) -> None:
    assert isinstance(launcher_of(make_cluster("local", {})), LocalLauncher)
    assert isinstance(launcher_of(make_cluster("launcher", {})), RayLauncher)
    assert isinstance(launcher_of(make_cluster("kuberay", {"metadata": {"name": "lab"}})), KubeRayLauncher)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b"])
def test_names_that_are_no_folders_are_refused(state: Path, name: str) -> None:
    with pytest.raises(ClusterError, match="change cluster_name"):
        state_folder(name)


def test_files_are_for_this_user_alone(state: Path) -> None:
    folder = state_folder("lab")
    assert folder == state / "fuseray" / "clusters" / "lab"
    assert folder.stat().st_mode & 0o777 == 0o700
    write_private(folder / "token", "abc")
    write_private(folder / "token", "def")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("token", "def")]
    assert (folder / "token").stat().st_mode & 0o777 == 0o600


def test_one_at_a_time(state: Path, make_cluster: Make) -> None:
    with locked(state_folder("lab")), pytest.raises(ClusterError, match="another fuseray is starting or ending it"):
        LocalLauncher(make_cluster("local", {})).up(print)
    with locked(state_folder("lab")):
        pass


def test_a_damaged_record_is_said(state: Path, make_cluster: Make) -> None:
    write_private(state_folder("lab") / "local.json", "{")
    with pytest.raises(ClusterError, match=r"local\.json is damaged"):
        LocalLauncher(make_cluster("local", {})).down(print)


def test_ray_gets_what_the_file_asks_for_and_no_other_ray(make_cluster: Make, tmp_path: Path) -> None:
    settings = {"cpus": 3.0, "gpus": None, "object_store_mb": 100}
    command = " ".join(start_command(make_cluster("local", settings), tmp_path, 8265))
    assert "--num-cpus=3 " in command + " "
    assert "--num-gpus" not in command
    assert "--object-store-memory=100000000" in command
    assert "--dashboard-host=127.0.0.1" in command
    known = {"PATH": "/bin", "RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "theirs", "AWS_REGION": "x"}
    variables = environment(known, tmp_path, tmp_path / "token")
    assert variables["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/bin"
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["AWS_REGION"] == "x"
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & variables.keys()


def test_ray_that_does_not_start_says_why_and_leaves_nothing(
    state: Path, make_cluster: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("PYTHONHOME", str(folder))
    with pytest.raises(ClusterError, match=r"Ray does not start on this machine:\n[\s\S]*Python"):
        LocalLauncher(make_cluster("local", {})).up(print)
    assert list(state_folder("lab").iterdir()) == []
    assert list(folder.iterdir()) == []
    folder.rmdir()


def test_ray_says_when_it_cannot_tell_where_a_head_is(state: Path, make_cluster: Make) -> None:
    cluster = make_cluster("launcher", {})
    cluster.file.write_text(json.dumps({"cluster_name": "lab", "provider": {"type": "nobody"}, "auth": {}}))
    with pytest.raises(ClusterError, match=r"cluster lab: Ray cannot say where its head is: .*nobody"):
        RayLauncher(cluster).is_up()


def test_an_up_that_fails_says_it_in_rays_words(state: Path, make_cluster: Make, tmp_path: Path) -> None:
    settings = {
        "cluster_name": "lab",
        "provider": {"type": "local", "head_ip": "192.0.2.7", "worker_ips": []},
        "auth": {"ssh_user": "nobody"},
        "file_mounts": {"~/.ray/auth_token": str(tmp_path / "token")},
        "no_such_key": 1,
    }
    cluster = make_cluster("launcher", settings)
    cluster.file.write_text(json.dumps(settings))
    lines: list[object] = []
    with pytest.raises(
        ClusterError, match=r"`ray up` of cluster lab failed[\s\S]*no_such_key[\s\S]*`fuseray down \S+` ends"
    ):
        RayLauncher(cluster).up(lines.append)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert any("lab" in str(line) for line in lines)


def test_a_child_process_that_ends_without_an_answer_is_an_error_with_its_output() -> None:
    with pytest.raises(ChildFailedError, match="No module named"):
        query_child("no_such_module", {}, timeout_s=60)
