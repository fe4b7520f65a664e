"""A real Ray of this machine: started, reached, joined and ended, with nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ssh_server
from processes import command_lines, lives, shown_by
from ray.autoscaler.tags import NODE_KIND_HEAD, STATUS_UP_TO_DATE, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS
from ray.job_submission import JobStatus, JobSubmissionClient
from shards import write_shards
from this_machine import processes_of, record_of, start, this_machine
from waiting import wait_for

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.launcher import JobServer, http_status, state_folder
from orchestrator.cluster.launch.local import LocalLauncher
from orchestrator.cluster.launch.ray_up import RayLauncher
from orchestrator.config.cluster import Cluster
from orchestrator.storage.local_files import write_private

NAME = "shared"
PATIENCE_S = 400
LASTING = ("gcs_server", "raylet", "dashboard.py", "ray::DashboardAgent")
LOOPBACK = ("127.0.0.1", "::ffff:127.0.0.1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("HOME", str(folder))
        patch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # of some other cluster
        yield folder


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        terminal = start(NAME, port)
        output, _ = terminal.communicate(timeout=PATIENCE_S)
    del os.environ["RAY_ADDRESS"]
    started = this_machine(NAME, port)
    try:
        assert terminal.returncode == 0, output
        assert f"port {port} is taken; the job server gets port" in output
        assert "cluster shared is up, at http://127.0.0.1:" in output
        yield started
    finally:
        LocalLauncher(started).down(print)


@pytest.fixture
def server(cluster: Cluster) -> Iterator[JobServer]:
    with LocalLauncher(cluster).connect() as reached:
        yield reached


def test_it_outlives_its_terminal_and_a_second_start_changes_nothing(cluster: Cluster) -> None:
    before = processes_of(cluster)
    output: list[object] = []
    LocalLauncher(cluster).up(output.append)
    assert output == [f"cluster shared is up already, at http://127.0.0.1:{record_of(cluster).port}"]
    assert LocalLauncher(cluster).is_up()
    names = {process: name for process in before for line in command_lines([process]) if (name := lasting(line))}
    assert set(names.values()) == set(LASTING)
    assert set(names) <= processes_of(cluster)
    assert os.getsid(0) not in shown_by(before, lambda process: os.getsid(process.pid))


def lasting(line: str) -> str | None:
    """Return which of the processes that last as long as the cluster has a command line; workers come and go."""
    return next((name for name in LASTING if name in line), None)


def test_it_listens_on_the_loopback_alone(cluster: Cluster) -> None:
    listening = [
        connection.laddr.ip
        for connections in shown_by(processes_of(cluster), lambda process: process.net_connections("inet"))
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 5
    assert set(listening) <= set(LOOPBACK)


def test_what_it_writes_is_for_this_user_alone(cluster: Cluster) -> None:
    folder = state_folder(NAME)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir(), record_of(cluster).folder]}
    assert modes == {"shared": 0o700, "token": 0o600, "local.json": 0o600, record_of(cluster).folder.name: 0o700}
    assert re.fullmatch(r"[0-9a-f]{64}", (folder / "token").read_text())


def test_its_job_server_wants_the_token(server: JobServer) -> None:
    assert http_status(server) == 200
    assert http_status(server, with_token=False) == 401
    assert http_status(replace(server, token="f" * 64)) == 403


def test_a_token_that_is_refused_is_said_with_the_fix(cluster: Cluster) -> None:
    file = state_folder(NAME) / "token"
    right = file.read_text()
    write_private(file, "f" * 64)
    try:
        with pytest.raises(ClusterError, match=r"refuses the token of .*/token; put the token there"):
            LocalLauncher(cluster).connect().__enter__()
    finally:
        write_private(file, right)


def test_jobs_run_in_this_environment_and_find_the_cluster(server: JobServer) -> None:
    client = JobSubmissionClient(server.url, headers={"Authorization": f"Bearer {server.token}"})
    code = "import os, ray, sys; ray.init(logging_level=40); print(sys.executable, ray.nodes()[0][chr(76) + 'abels'])"
    job = client.submit_job(entrypoint=f'python -c "{code}"')
    wait_for(lambda: client.get_job_status(job).is_terminal(), PATIENCE_S)
    log = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, log
    assert str(Path(sys.executable).parent) in log
    assert "'fuseray.io/machine': 'm5.large'" in log
    assert server.token not in log


def index(shards: str, address: str, **variables: str) -> tuple[int, str]:
    """Run `fuseray shards index` on a cluster."""
    command = [sys.executable, "-m", "orchestrator.cli", "shards", "index", shards, "--ray", address, "--workers", "1"]
    plain = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # or Ray would not look for it on the loopback
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | plain | variables
    )
    return done.returncode, done.stderr


def gcs_of(cluster: Cluster) -> str:
    lines = command_lines(processes_of(cluster))
    found = next(match for line in lines if (match := re.search(r"--gcs-address=(\S+)", line)))
    return found[1]


def test_it_is_joined_with_its_token_and_no_other(cluster: Cluster, tmp_path: Path) -> None:
    shards = write_shards(str(tmp_path / "shards"), 2, per_shard=2)
    (tmp_path / "wrong").write_text("f" * 64)
    code, output = index(shards, gcs_of(cluster), RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
    assert code == 1
    assert f"the cluster at {gcs_of(cluster)} refuses this process's token; set RAY_AUTH_TOKEN_PATH" in output
    assert "Traceback" not in output
    code, output = index(shards, gcs_of(cluster), RAY_AUTH_TOKEN_PATH=str(state_folder(NAME) / "token"))
    assert code == 0, output


def test_a_job_server_is_reached_through_ssh(cluster: Cluster, server: JobServer, tmp_path: Path) -> None:
    if why := ssh_server.missing():
        pytest.skip(why)
    ssh = ssh_server.ssh_server(tmp_path)
    write_private(tmp_path / "token", server.token)
    lab = remote_lab(ssh, tmp_path)
    launcher = RayLauncher(lab, remote_port=record_of(cluster).port)
    with pytest.raises(ClusterError, match="cluster lab is not up"):
        launcher.connect().__enter__()
    pretend_it_was_set_up("192.0.2.7")
    assert launcher.is_up()
    with launcher.connect() as through:
        assert through.url != server.url
        client = JobSubmissionClient(through.url, headers={"Authorization": f"Bearer {through.token}"})
        assert client.get_version()
    assert http_status(through) is None
    assert (state_folder("lab") / "known_hosts").read_text().count("ssh-ed25519") == 1
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(ClusterError, match=r"others can read the cluster's token .*; run: chmod 600"):
        launcher.connect().__enter__()


def remote_lab(ssh: ssh_server.SshServer, folder: Path) -> Cluster:
    """Return a cluster of Ray's launcher whose head is that SSH server."""
    settings = {
        "cluster_name": "lab",
        "provider": {"type": "local", "head_ip": "192.0.2.7", "worker_ips": []},
        "auth": {"ssh_user": ssh.user, "ssh_private_key": str(ssh.key), "ssh_proxy_command": ssh.proxy},
        "file_mounts": {"~/.ray/auth_token": str(folder / "token")},
    }
    (folder / "lab.yaml").write_text(json.dumps(settings))
    return replace(this_machine("lab", 8265), kind="launcher", file=folder / "lab.yaml", settings=settings)


def pretend_it_was_set_up(head: str) -> None:
    """Write down what `ray up` writes down when it has set up the head."""
    tags = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
    (state_folder("lab") / "ray" / "cluster-lab.state").write_text(
        json.dumps({head: {"tags": tags, "state": "running"}})
    )


def test_down_leaves_nothing(cluster: Cluster) -> None:
    record, before = record_of(cluster), processes_of(cluster)
    maps = [memory.path for mapped in shown_by(before, lambda one: one.memory_maps()) for memory in mapped]
    shared = {Path(path.removesuffix(" (deleted)")) for path in maps if path.startswith("/dev/shm/")}  # noqa: S108
    assert shared
    LocalLauncher(cluster).down(print)
    assert not any(lives(process) for process in before)
    assert not any(path.exists() for path in shared)
    assert not record.folder.exists()
    assert list(state_folder(NAME).iterdir()) == []
    assert not LocalLauncher(cluster).is_up()
    output: list[object] = []
    LocalLauncher(cluster).down(output.append)
    assert output == ["cluster shared is not up"]
    with pytest.raises(ClusterError, match="is not up; start it with `fuseray up"):
        LocalLauncher(cluster).connect().__enter__()


def test_a_start_that_was_killed_is_cleared_away(home: Path) -> None:
    cluster = this_machine("killed", 8265)
    terminal = start("killed", 8265)
    assert terminal.stdout is not None
    while "starting Ray" not in terminal.stdout.readline():
        assert terminal.poll() is None
    wait_for(lambda: any("gcs_server" in line for line in command_lines(processes_of(cluster))), PATIENCE_S)
    os.killpg(terminal.pid, signal.SIGKILL)
    terminal.wait()
    record = record_of(cluster)
    assert not record.ready
    assert processes_of(cluster)
    LocalLauncher(cluster).down(print)
    assert not record.folder.exists()
    assert list(state_folder("killed").iterdir()) == []
