"""Starting, reaching and ending a cluster with Ray's cluster launcher."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.launcher import JobServer, check_server, free_port, http_status, locked, state_folder
from orchestrator.cluster.launch.ssh import (
    REMOTE_PORT,
    Head,
    ensure_token,
    find_head,
    launcher_variables,
    read_token,
    ssh_to,
    ssh_tunnel,
    token_source,
)
from orchestrator.cluster.launch.subprocesses import find_program, run_aloud, tunnel
from orchestrator.config.cluster import Cluster

REMEMBERED = "ray-config-*"
"""Files in which Ray remembers what it worked out of a cluster's file."""


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
        """Return whether there is a head that was set up to its end."""
        return find_head(self._cluster, self._folder) is not None

    def up(self, log: Callable[[str], object]) -> None:
        """Run `ray up`; on a cluster that answers, without starting Ray again, so that jobs go on.

        Raises:
            ClusterError: no token is brought to the nodes, others can read it, or `ray up` failed.
        """
        with locked(self._folder):
            ensure_token(self._token_source())
            answers = self._answers()
            for remembered in self._folder.glob(REMEMBERED):
                remembered.unlink()
            if answers:
                log(f"cluster {self._cluster.name} is up already; `ray up` brings it what changed in its file")
            self._ray("up", ["--no-restart"] if answers else [], log)

    def down(self, log: Callable[[str], object]) -> None:
        """Run `ray down`, and stop Ray on machines of one's own, which it leaves running.

        Raises:
            ClusterError: it failed, so machines may still run, and cost.
        """
        with locked(self._folder):
            workers = own_workers(self._cluster.settings)
            head = find_head(self._cluster, self._folder) if workers else None
            self._ray("down", [], log)
            if head is not None:
                way = ssh_to(head, self._folder / "known_hosts", self._cluster.name)
                stop_workers(workers, head, [*way, "--", head.address], log)
            (self._folder / "known_hosts").unlink(missing_ok=True)

    @contextmanager
    def connect(self) -> Iterator[JobServer]:
        """Open an SSH tunnel to the head's job server.

        Raises:
            ClusterError: there is no head, it cannot be logged in to, or its job server does not answer.
        """
        head = find_head(self._cluster, self._folder)
        if head is None:
            raise ClusterError(
                f"cluster {self._cluster.name} is not up; start it with `fuseray up {self._cluster.file}`."
            )
        source = self._token_source()
        with self._tunnel(head, read_token(source)) as server:
            check_server(server, self._cluster.name, str(source))
            yield server

    @contextmanager
    def _tunnel(self, head: Head, token: str) -> Iterator[JobServer]:
        port = free_port()
        wanted = ssh_tunnel(head, port, self._folder / "known_hosts", self._cluster.name, self._remote_port)
        with tunnel(wanted):
            yield JobServer(f"http://127.0.0.1:{port}", token)

    def _answers(self) -> bool:
        """Say whether Ray runs there already.

        Raises:
            ClusterError: the head is there but cannot be asked; jobs may run on it.
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
        ended = run_aloud(command, log, launcher_variables(self._folder))
        if ended.code != 0:
            raise ClusterError(
                f"`ray {verb}` of cluster {self._cluster.name} failed (exit code {ended.code}); it said last:\n"
                f"{ended.said}\nMachines may be left; `fuseray down` ends them."
            )


# Stopping Ray on machines of one's own: `ray down` ends it on the head alone there.


KEY_ON_HEAD = "ray_bootstrap_key.pem"
"""Ray's launcher leaves the key that opens the workers in the home of the head."""

STOP = "bash -lic 'source ~/.bashrc; ray stop' 2>&1"
"""Finds Ray as the launcher's own commands do, in an interactive login shell that reads ~/.bashrc."""

CONNECT_S = 10
STOP_S = 60.0
AT_ONCE = 32


def own_workers(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the addresses of the workers, none where a provider makes and ends its machines."""
    provider: Mapping[str, Any] = settings.get("provider") or {}
    return tuple(provider.get("worker_ips") or ()) if provider.get("type") == "local" else ()


def stop_workers(workers: Sequence[str], head: Head, way: Sequence[str], log: Callable[[str], object]) -> None:
    """Stop Ray on all workers, by way of the head.

    Args:
        workers: their addresses, as the head reaches them.
        head: says who logs in.
        way: the SSH command that runs a command on the head.
        log: is told which worker could not be reached.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="stop-worker") as pool:
        for worker, fault in zip(workers, pool.map(lambda one: _stop(one, head.user, way), workers), strict=True):
            if fault:
                log(f"{worker}: Ray could not be stopped there ({fault}); run `ray stop` on it when it can be reached.")


def _stop(worker: str, user: str, way: Sequence[str]) -> str | None:
    """Stop Ray on a worker; return why that failed, None when it did not."""
    options = (
        "BatchMode=yes",
        f"ConnectTimeout={CONNECT_S}",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
    )
    flags = [word for option in ("LogLevel=ERROR", "IdentitiesOnly=yes", *options) for word in ("-o", option)]
    hop = shlex.join(["ssh", "-i", KEY_ON_HEAD, *flags, "-l", user, "--", worker, STOP])
    try:
        ran = subprocess.run(
            [*way, hop], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STOP_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {STOP_S:g} s"
    said = (ran.stdout.strip() or ran.stderr.strip()).splitlines()
    return None if ran.returncode == 0 else (said[-1] if said else f"exit code {ran.returncode}")
