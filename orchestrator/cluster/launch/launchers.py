"""The launcher of each kind of cluster."""

from __future__ import annotations

from orchestrator.cluster.launch.kuberay import KubeRayLauncher
from orchestrator.cluster.launch.launcher import Launcher
from orchestrator.cluster.launch.local import LocalLauncher
from orchestrator.cluster.launch.ray_up import RayLauncher
from orchestrator.config.cluster import Cluster


def launcher_of(cluster: Cluster) -> Launcher:
    """Return the launcher of a cluster, by the kind of its file."""
    if cluster.kind == "local":
        return LocalLauncher(cluster)
    if cluster.kind == "launcher":
        return RayLauncher(cluster)
    return KubeRayLauncher(cluster)
