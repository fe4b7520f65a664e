"""Starting, reaching and ending a cluster that KubeRay runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.job_server import check_server
from orchestrator.cluster.launch.kuberay.kubectl import Kubectl
from orchestrator.cluster.launch.kuberay.manifest import (
    check_manifest,
    is_ready,
    secret_name,
    service_name,
    token_in,
)
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.cluster.launch.tunnel import TunnelCommand, tunnel
from orchestrator.config.cluster import Cluster

KIND = "rayclusters.ray.io"
REMOTE_PORT = 8265
READY = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> ")
HEAD_S = 900.0
LOOK_S = 5.0


class KubeRayLauncher:
    """A RayCluster on Kubernetes.

    Args:
        cluster: its file is a manifest.
        head_s: seconds that the head may take to start, which may need a new machine and a large image.
    """

    def __init__(self, cluster: Cluster, head_s: float = HEAD_S) -> None:
        self._cluster = cluster
        self._head_s = head_s
        self._kubectl = Kubectl(cluster.name, cluster.settings["metadata"].get("namespace"))

    def is_up(self) -> bool:
        """Return whether its head takes requests, as Kubernetes says."""
        found = self._found()
        return found is not None and is_ready(found)

    def up(self, say: Callable[[str], object]) -> None:
        """Apply the manifest and wait for the head.

        Raises:
            ClusterError: Kubernetes does not take the manifest, or the head does not start.
        """
        check_manifest(self._cluster.settings, self._cluster.file)
        say(self._kubectl.run("apply", "--filename", str(self._cluster.file)).strip())
        until_s = time.monotonic() + self._head_s
        said = ""
        while not self.is_up():
            if time.monotonic() > until_s:
                raise ClusterError(
                    f"cluster {self._cluster.name}: its head was not ready within {self._head_s:g} s; see "
                    f"`kubectl describe pods -l ray.io/cluster={self._cluster.name}`. Its pods:\n{self._pods()}"
                )
            if (pods := self._pods()) != said:
                say(f"waiting for the head\n{pods}")
                said = pods
            time.sleep(LOOK_S)
        say(f"the head of cluster {self._cluster.name} is ready")

    def down(self, say: Callable[[str], object]) -> None:
        """Delete what the manifest made, with all pods."""
        check_manifest(self._cluster.settings, self._cluster.file)
        file = str(self._cluster.file)
        said = self._kubectl.run("delete", "--filename", file, "--ignore-not-found", "--wait", seconds=self._head_s)
        say(said.strip() or f"cluster {self._cluster.name} is not up")

    @contextmanager
    def reach(self) -> Iterator[JobServer]:
        """Forward a port of the loopback to the head's Service.

        Raises:
            ClusterError: the cluster is not there, or its job server does not answer.
        """
        check_manifest(self._cluster.settings, self._cluster.file)
        found = self._found()
        if found is None:
            raise ClusterError(
                f"cluster {self._cluster.name} is not up; start it with `fuseray up {self._cluster.file}`."
            )
        secret = secret_name(found)
        token = token_in(self._kubectl.get("secret", secret), secret)
        with tunnel(self._forward(service_name(found))) as opened:
            server = JobServer(f"http://127.0.0.1:{opened[1]}", token)
            check_server(server, self._cluster.name, f"Secret {secret}")
            yield server

    def _found(self) -> Mapping[str, Any] | None:
        return self._kubectl.get(KIND, self._cluster.name)

    def _forward(self, service: str) -> TunnelCommand:
        command = self._kubectl.command(
            "port-forward", f"service/{service}", f":{REMOTE_PORT}", "--address", "127.0.0.1"
        )
        return TunnelCommand(command, READY, f"the way to the head of cluster {self._cluster.name}")

    def _pods(self) -> str:
        return self._kubectl.run(
            "get", "pods", "--selector", f"ray.io/cluster={self._cluster.name}", "--no-headers"
        ).strip()
