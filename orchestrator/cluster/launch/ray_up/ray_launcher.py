"""Starting, reaching and ending a cluster with Ray's cluster launcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.job_server import check_server, status_of
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.cluster.launch.ports import free_port
from orchestrator.cluster.launch.programs import find_program, run_aloud
from orchestrator.cluster.launch.ray_up.head import Head, find_head, launcher_variables
from orchestrator.cluster.launch.ray_up.ssh import REMOTE_PORT, ssh_to, ssh_tunnel
from orchestrator.cluster.launch.ray_up.token_file import ensure_token, read_token, token_source
from orchestrator.cluster.launch.ray_up.workers import own_workers, stop_workers
from orchestrator.cluster.launch.state import locked, state_folder
from orchestrator.cluster.launch.tunnel import tunnel
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

    def up(self, say: Callable[[str], object]) -> None:
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
                say(f"cluster {self._cluster.name} is up already; `ray up` brings it what changed in its file")
            self._ray("up", ["--no-restart"] if answers else [], say)

    def down(self, say: Callable[[str], object]) -> None:
        """Run `ray down`, and stop Ray on machines of one's own, which it leaves running.

        Raises:
            ClusterError: it failed, so machines may still run, and cost.
        """
        with locked(self._folder):
            workers = own_workers(self._cluster.settings)
            head = find_head(self._cluster, self._folder) if workers else None
            self._ray("down", [], say)
            if head is not None:
                way = ssh_to(head, self._folder / "known_hosts", self._cluster.name)
                stop_workers(workers, head, [*way, "--", head.address], say)
            (self._folder / "known_hosts").unlink(missing_ok=True)

    @contextmanager
    def reach(self) -> Iterator[JobServer]:
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
            if status_of(server) is None:
                return False
            check_server(server, self._cluster.name, str(source))
        return True

    def _token_source(self) -> Path:
        return token_source(self._cluster.settings, self._cluster.file)

    def _ray(self, verb: str, options: list[str], say: Callable[[str], object]) -> None:
        ray = find_program("ray", f"cluster {self._cluster.name}", "install Ray in this environment.")
        command = [ray, verb, str(self._cluster.file), "--yes", *options]
        ended = run_aloud(command, say, launcher_variables(self._folder))
        if ended.code != 0:
            raise ClusterError(
                f"`ray {verb}` of cluster {self._cluster.name} failed (exit code {ended.code}); it said last:\n"
                f"{ended.said}\nMachines may be left; `fuseray down` ends them."
            )
