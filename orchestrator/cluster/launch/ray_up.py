"""A cluster that Ray's cluster launcher starts (`ray up`): its launcher, and its token.

The token is a file of this machine that `file_mounts` copy to every node.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.head import find_head, launcher_variables
from orchestrator.cluster.launch.launcher import JobServer, check_server, free_port, http_status, locked, state_folder
from orchestrator.cluster.launch.ssh import REMOTE_PORT, Head, ssh_command, ssh_tunnel, stop_workers
from orchestrator.cluster.launch.subprocesses import find_program, run_streaming, tunnel
from orchestrator.config.cluster import Cluster
from orchestrator.config.commands import command_line

RAY_CACHE = "ray-config-*"
"""Files in which Ray caches what it resolved from a cluster's file."""


class RayLauncher:
    """A cluster that `ray up` starts.

    Args:
        cluster: its file is Ray's own.
        remote_port: the job server's port on the head's loopback.
    """

    def __init__(self, cluster: Cluster, remote_port: int = REMOTE_PORT) -> None:
        self._cluster = cluster
        self._remote_port = remote_port
        self._folder = state_folder(cluster.name)

    def is_up(self) -> bool:
        """Return whether there is a head whose setup was completed."""
        return find_head(self._cluster, self._folder) is not None

    def up(self, log: Callable[[str], object]) -> None:
        """Run `ray up`; on a cluster whose Ray answers, without restarting Ray, so that jobs continue.

        Raises:
            ClusterError: no token is mounted on the nodes, other users can read it, or `ray up` failed.
        """
        with locked(self._folder):
            ensure_token(self._token_source())
            ray_runs = self._ray_runs()
            for cached in self._folder.glob(RAY_CACHE):
                cached.unlink()
            if ray_runs:
                log(f"cluster {self._cluster.name} is up already; `ray up` applies what changed in its file")
            self._ray("up", ["--no-restart"] if ray_runs else [], log)

    def down(self, log: Callable[[str], object]) -> None:
        """Run `ray down`, and stop Ray on workers that are no cloud's, where `ray down` leaves it running.

        Raises:
            ClusterError: it failed, so machines may still run, and cost money.
        """
        with locked(self._folder):
            workers = own_workers(self._cluster.settings)
            head = find_head(self._cluster, self._folder) if workers else None
            self._ray("down", [], log)
            if head is not None:
                ssh = ssh_command(head, self._folder / "known_hosts", self._cluster.name)
                stop_workers(workers, head.user, [*ssh, "--", head.address], log)
            (self._folder / "known_hosts").unlink(missing_ok=True)

    @contextmanager
    def connect(self) -> Iterator[JobServer]:
        """Open an SSH tunnel to the head's job server.

        Raises:
            ClusterError: there is no head, the login failed, or its job server does not answer.
        """
        head = find_head(self._cluster, self._folder)
        if head is None:
            raise ClusterError(
                f"cluster {self._cluster.name} is not up; start it with `{command_line('up', self._cluster.file)}`."
            )
        source = self._token_source()
        with self._tunnel(head, read_token(source)) as server:
            check_server(server, self._cluster.name, str(source))
            yield server

    @contextmanager
    def _tunnel(self, head: Head, token: str) -> Iterator[JobServer]:
        port = free_port()
        command = ssh_tunnel(head, port, self._folder / "known_hosts", self._cluster.name, self._remote_port)
        with tunnel(command):
            yield JobServer(f"http://127.0.0.1:{port}", token)

    def _ray_runs(self) -> bool:
        """Return whether Ray runs on the head already.

        Raises:
            ClusterError: there is a head but it cannot be reached; jobs may run on it.
        """
        head = find_head(self._cluster, self._folder)
        if head is None:
            return False
        source = self._token_source()
        with self._tunnel(head, read_token(source)) as server:
            if http_status(server) is None:
                return False
            check_server(server, self._cluster.name, str(source))
        return True

    def _token_source(self) -> Path:
        return token_source(self._cluster.settings, self._cluster.file)

    def _ray(self, verb: str, options: list[str], log: Callable[[str], object]) -> None:
        ray = find_program("ray", f"cluster {self._cluster.name}", "install Ray in this environment.")
        command = [ray, verb, str(self._cluster.file), "--yes", *options]
        result = run_streaming(command, log, launcher_variables(self._folder))
        if result.code != 0:
            raise ClusterError(
                f"`ray {verb}` of cluster {self._cluster.name} failed (exit code {result.code}); its last output:\n"
                f"{result.last_lines}\nMachines may be left; `{command_line('down', self._cluster.file)}` ends them."
            )


def own_workers(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the addresses of the workers; none where a cloud makes and deletes the machines."""
    provider: Mapping[str, Any] = settings.get("provider") or {}
    return tuple(provider.get("worker_ips") or ()) if provider.get("type") == "local" else ()


ON_NODES = "~/.ray/auth_token"
ACCESS_OF_OTHERS = 0o077


def token_source(settings: Mapping[str, Any], file: Path) -> Path:
    """Return the file of this machine that is mounted on the nodes as their token.

    Args:
        settings: the cluster's file.
        file: its path, for the message.

    Raises:
        ClusterError: no token is mounted, so anyone who reaches the cluster could run code on it.
    """
    mounts: Mapping[str, str] = settings.get("file_mounts") or {}
    for on_node, here in mounts.items():
        if on_node == ON_NODES or on_node.endswith(ON_NODES.removeprefix("~")):
            return Path(here).expanduser()
    raise ClusterError(
        f"{file}: no token is mounted on the nodes, so anyone who reaches the cluster could run code on it; add "
        f'"{ON_NODES}: {ON_NODES}" to file_mounts and start Ray there with RAY_AUTH_MODE=token.'
    )


def ensure_token(source: Path) -> None:
    """Make a token if there is none.

    Raises:
        ClusterError: other users can read the existing token, or none can be made.
    """
    if source.exists():
        read_token(source)
        return
    try:
        source.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        raise ClusterError(f"the token {source} cannot be made ({error.strerror}).") from None


def read_token(source: Path) -> str:
    """Return the token.

    Raises:
        ClusterError: the file does not exist, is empty, or other users can read it.
    """
    try:
        mode = source.stat().st_mode
        token = source.read_text().strip()
    except OSError as error:
        raise ClusterError(
            f"the cluster's token {source} cannot be read ({error.strerror}); copy it from the machine that started "
            "the cluster."
        ) from None
    if mode & ACCESS_OF_OTHERS:
        raise ClusterError(f"others can read the cluster's token {source}; run: chmod 600 {source}")
    if not token:
        raise ClusterError(f"the cluster's token {source} is empty; copy it from the machine that started the cluster.")
    return token
