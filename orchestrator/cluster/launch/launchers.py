"""Which launcher a cluster has."""

from __future__ import annotations

from orchestrator.cluster.launch.kuberay.kuberay_launcher import KubeRayLauncher
from orchestrator.cluster.launch.launcher import Launcher
from orchestrator.cluster.launch.local.local_launcher import LocalLauncher
from orchestrator.cluster.launch.ray_up.ray_launcher import RayLauncher
from orchestrator.config.cluster import Cluster


def launcher_of(cluster: Cluster) -> Launcher:
    """Return what starts, reaches and ends a cluster."""
    if cluster.kind == "local":
        return LocalLauncher(cluster)
    if cluster.kind == "launcher":
        return RayLauncher(cluster)
    return KubeRayLauncher(cluster)
