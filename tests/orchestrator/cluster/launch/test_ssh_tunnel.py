"""Tunnels through a real SSH server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socket import create_connection
from typing import Any

import psutil
import pytest
from processes import command_lines, lives, shown_by
from ssh_server import SshServer, missing, new_key, ssh_server
from waiting import wait_for

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.launcher import JobServer, free_port, http_status
from orchestrator.cluster.launch.ssh import Head, ssh_tunnel
from orchestrator.cluster.launch.subprocesses import tunnel

PATIENCE_S = 120

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    """Serve an HTTP page on the loopback, as the head's job server does."""
    with HTTPServer(("127.0.0.1", 0), Page) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served.server_port
        served.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> SshServer:
    return ssh_server(tmp_path_factory.mktemp("ssh"))


@pytest.fixture
def head(server: SshServer) -> Head:
    return Head(address="192.0.2.7", user=server.user, key=server.key, proxy=server.proxy)


def opened(head: Head, folder: Path, remote: int) -> tuple[JobServer, AbstractContextManager[Any]]:
    port = free_port()
    return JobServer(f"http://127.0.0.1:{port}", ""), tunnel(
        ssh_tunnel(head, port, folder / "known hosts", "lab", remote)
    )


def children() -> set[str]:
    return {*command_lines(psutil.Process().children(recursive=True))}


def test_it_carries_requests_and_closes_with_the_block(head: Head, page: int, tmp_path: Path) -> None:
    local, way = opened(head, tmp_path, page)
    with way:
        assert http_status(local) == 200
        assert any("ssh -N" in line for line in children())
    assert http_status(local) is None
    assert not any("ssh -N" in line for line in children())
    assert (tmp_path / "known hosts").read_text().count("ssh-ed25519") == 1


def test_it_closes_after_ctrl_c(head: Head, page: int, tmp_path: Path) -> None:
    local, way = opened(head, tmp_path, page)

    def use() -> None:
        assert http_status(local) == 200
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), way:
        use()
    assert http_status(local) is None


def test_it_ends_with_an_owner_that_is_killed(head: Head, page: int, tmp_path: Path) -> None:
    port = free_port()
    code = f"""
from pathlib import Path
from orchestrator.cluster.launch.ssh import Head
from orchestrator.cluster.launch.ssh import ssh_tunnel
from orchestrator.cluster.launch.subprocesses import tunnel
head = Head(address={head.address!r}, user={head.user!r}, key=Path({str(head.key)!r}), proxy={head.proxy!r})
with tunnel(ssh_tunnel(head, {port}, Path({str(tmp_path / "hosts")!r}), "lab", {page})):
    print("open", flush=True)
    input()
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"open\n"
    carriers = psutil.Process(owner.pid).children(recursive=True)
    assert http_status(JobServer(f"http://127.0.0.1:{port}", "")) == 200
    owner.kill()
    owner.communicate()
    wait_for(lambda: not any(lives(one) for one in carriers), PATIENCE_S)


def test_one_that_breaks_says_so_in_its_own_words(head: Head, page: int, tmp_path: Path) -> None:
    local, way = opened(head, tmp_path, page)

    def use() -> None:
        shown_by(psutil.Process().children(recursive=True), lambda child: "sshd" in child.name() and child.kill())
        while True:
            create_connection(("127.0.0.1", int(local.url.rpartition(":")[2])), 5).close()

    with (
        pytest.raises(ClusterError, match=r"the head of cluster lab broke: (client_loop|Connection)") as failed,
        way,
    ):
        use()
    assert isinstance(failed.value.__cause__, OSError)


def test_an_error_of_the_block_stays_what_it_is(head: Head, page: int, tmp_path: Path) -> None:
    _, way = opened(head, tmp_path, page)
    with pytest.raises(ZeroDivisionError), way:
        raise ZeroDivisionError


def test_a_key_that_is_not_let_in_is_refused_in_sshs_words(head: Head, page: int, tmp_path: Path) -> None:
    _, way = opened(replace(head, key=new_key(tmp_path / "other")), tmp_path, page)
    with pytest.raises(ClusterError, match=r"cannot be opened: .*Permission denied"):
        way.__enter__()


def test_a_host_whose_key_changed_is_refused(head: Head, page: int, tmp_path: Path) -> None:
    other = new_key(tmp_path / "other").with_suffix(".pub").read_text()
    (tmp_path / "known hosts").write_text(f"192.0.2.7 {other}")
    _, way = opened(head, tmp_path, page)
    with pytest.raises(ClusterError, match=r"cannot be opened: .*Host key verification failed"):
        way.__enter__()


def test_a_port_that_is_taken_is_refused(head: Head, page: int, tmp_path: Path) -> None:
    way = tunnel(ssh_tunnel(head, page, tmp_path / "hosts", "lab", page))
    with pytest.raises(ClusterError, match=r"cannot be opened: .*Address already in use"):
        way.__enter__()


def test_a_way_that_never_opens_is_given_up(head: Head, page: int, tmp_path: Path) -> None:
    silent = ssh_tunnel(replace(head, proxy="sleep 60"), free_port(), tmp_path / "hosts", "lab", page)
    with pytest.raises(ClusterError, match=r"did not open within 0\.5 s"):
        tunnel(silent, open_s=0.5).__enter__()
    assert not any("sleep 60" in line for line in children())


def test_a_key_that_is_not_here_is_said(head: Head, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cluster lab: the SSH key .*gone is not on this machine; copy it"):
        ssh_tunnel(replace(head, key=tmp_path / "gone"), 1, tmp_path / "hosts", "lab", 8265)


def test_nobody_is_asked_anything(head: Head, tmp_path: Path) -> None:
    command = list(ssh_tunnel(head, 1234, tmp_path / "hosts", "lab", 8265).command)
    assert "BatchMode=yes" in command
    assert "IdentitiesOnly=yes" in command
    assert command[command.index("-L") + 1] == "127.0.0.1:1234:127.0.0.1:8265"
    assert command[-2:] == ["--", "192.0.2.7"]
    assert os.fspath(head.key or "") in command
