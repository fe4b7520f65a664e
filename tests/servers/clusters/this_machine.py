"""A cluster of this machine, started by a process of its own with Fuseray's own launcher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from orchestrator.cluster.launch.local import ClusterStart, LocalLauncher, cluster_processes
from orchestrator.config.cluster import Cluster, NodeGroup


def this_machine(name: str, port: int) -> Cluster:
    """Return a small cluster, as a file would describe it."""
    head = NodeGroup(name="head", machine="m5.large", market="owned", fewest=1, most=1, cpus=1, gpus=0, head=True)
    settings = {"cpus": 1, "gpus": 0, "object_store_mb": 100, "dashboard_port": port}
    return Cluster(kind="local", name=name, file=Path("clusters/local.yaml"), groups=(head,), settings=settings)


def start(name: str, port: int) -> subprocess.Popen[str]:
    """Start a cluster from a process that then ends, in a session of its own, like a terminal's."""
    return subprocess.Popen(
        [sys.executable, __file__, name, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def record_of(cluster: Cluster) -> ClusterStart:
    """Return what this machine remembers of a cluster that was started."""
    record = LocalLauncher(cluster)._state.record()
    assert record is not None
    return record


def processes_of(cluster: Cluster) -> set[psutil.Process]:
    """Return a cluster's processes."""
    return cluster_processes(str(record_of(cluster).folder))


if __name__ == "__main__":
    LocalLauncher(this_machine(sys.argv[1], int(sys.argv[2]))).up(lambda line: print(line, flush=True))
