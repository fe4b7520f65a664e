"""The cluster that a chaos run trains on, as the benchmark sees it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "servers" / "clusters"))
from ray_cluster import RayCluster, ray_cluster

SCRIPT = Path(__file__).with_name("chaos_nodes.py")

WATCHFUL = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_worker_niceness": "0",
}
"""Ray's own values take up to 15 seconds to notice that a machine is gone, and let everybody else go first."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A training worker's process, and the node that it is on."""

    node: str
    pid: int


@dataclass(frozen=True, slots=True)
class ChaosCluster:
    """A running cluster.

    Args:
        process: holds it, or is attached to it.
        environment: all variables of processes that use it.
        cpus: of a node for workers; 0 when nodes cannot be added.
    """

    process: RayCluster
    environment: Mapping[str, str]
    cpus: int

    @property
    def address(self) -> str:
        """HOST:PORT of its GCS."""
        return self.process.address

    def workers(self) -> list[Worker]:
        """Return the training workers, in an order that depends on nothing but their processes."""
        return sorted((Worker(*one) for one in self.process.tell("workers")), key=lambda worker: worker.pid)

    def nodes_with_workers(self) -> list[str]:
        """Return the nodes with training workers that the driver is not on."""
        driver = self.process.tell("driver_node")
        return [node for node in dict.fromkeys(one.node for one in self.workers()) if node != driver]

    def strike(self, worker: Worker, number: int) -> float:
        """Send a signal to a worker; return when that was, in seconds since 1970."""
        return float(self.process.tell("strike", f"{worker.node} {worker.pid} {number}"))

    def add_node(self) -> str:
        """Add a node for workers and return its id."""
        return str(self.process.tell("join", str(self.cpus)))

    def preempt(self, node: str, notice: Path) -> float:
        """Let a watcher find a notice in a file and drain a node; return when that was, in seconds since 1970."""
        return float(self.process.tell("preempt", f"{node} {notice}"))

    def lose(self, node: str) -> float:
        """End a node without warning; return when that was, in seconds since 1970."""
        return float(self.process.tell("lose", node))

    def left(self) -> list[str]:
        """Return the actors and placement groups that are there."""
        return list(self.process.tell("left"))


@contextmanager
def own_cluster(nodes: int, cpus: int, settings: Mapping[str, str]) -> Iterator[ChaosCluster]:
    """Run a cluster on this machine: a head for the driver and for reading, and nodes for workers.

    Args:
        nodes: how many.
        cpus: of each of them.
        settings: variables of all its processes.
    """
    with ray_cluster(SCRIPT, settings=WATCHFUL | dict(settings)) as process:
        cluster = ChaosCluster(process, process.environment, cpus)
        for _ in range(nodes):
            cluster.add_node()
        yield cluster


@contextmanager
def users_cluster(address: str, settings: Mapping[str, str]) -> Iterator[ChaosCluster]:
    """Attach to a cluster of the user's, with this process's own variables."""
    with ray_cluster(SCRIPT, (address,), settings, isolated=False) as process:
        yield ChaosCluster(process, process.environment, 0)
