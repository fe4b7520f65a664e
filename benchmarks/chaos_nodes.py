"""The process that holds the chaos run's Ray cluster, or is attached to the user's, and does what it is told."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.preemption.cloud import open_notice_source
from orchestrator.cluster.preemption.drain import Gcs, drain_node
from orchestrator.cluster.preemption.notices import Notice
from orchestrator.cluster.preemption.watcher import Watcher

sys.path.append(str(Path(__file__).parents[1] / "tests" / "servers" / "clusters"))
from ray_cluster import STORE_BYTES, Commands, serve

TRAIN_WORKER = "RayTrainWorker"
CONTROLLER = "TrainController"

LASTING = frozenset({"_AutoscalingCoordinatorActor", "AutoscalingRequester", "_StatsActor"})
"""Actors of which Ray Data keeps one per cluster."""


class Looking:
    """What can be seen and done on every cluster."""

    def workers(self, _: str) -> list[tuple[str, int]]:
        """Return the node and the process of every training worker."""
        return [(one["Address"]["NodeID"], one["Pid"]) for one in _alive() if one["ActorClassName"] == TRAIN_WORKER]

    def driver_node(self, _: str) -> str:
        """Return the node that the run's driver is on."""
        return next((one["Address"]["NodeID"] for one in _alive() if one["ActorClassName"] == CONTROLLER), "")

    def nodes(self, _: str) -> list[str]:
        """Return the nodes that are alive."""
        return [node["NodeID"] for node in ray.nodes() if node["Alive"]]

    def left(self, _: str) -> list[str]:
        """Return actors and placement groups that are there."""
        groups: dict[str, Any] = ray.util.placement_group_table()
        kept = [f"placement group {name}" for name, group in groups.items() if group["state"] != "REMOVED"]
        names = [one["ActorClassName"] for one in _alive()]
        return kept + [f"actor {name}" for name in names if name not in LASTING]

    def strike(self, text: str) -> float:
        """Send a signal to a process: `NODE PID SIGNAL`; return when that was, in seconds since 1970."""
        node, pid, number = text.split()
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        send: Any = ray.remote(_send)
        sent_s: float = ray.get(send.options(num_cpus=0, scheduling_strategy=there).remote(int(pid), int(number)))
        return sent_s


class OwnNodes(Looking, Commands):
    """A cluster of our own, whose nodes come and go."""

    def join(self, cpus: str) -> str:
        """Add a node and return its id."""
        return str(self._cluster.add_node(num_cpus=int(cpus), object_store_memory=STORE_BYTES).node_id)

    def lose(self, node_id: str) -> float:
        """End a node without warning; return when that was, in seconds since 1970."""
        node = next(one for one in self._cluster.worker_nodes if one.node_id == node_id)
        lost_s = time.time()
        self._cluster.remove_node(node, allow_graceful=False)
        return lost_s

    def preempt(self, text: str) -> float:
        """Watch for the notice in a file and drain a node: `NODE FILE`; return when it drains."""
        node_id, notice = text.split(" ", 1)
        Watcher(open_notice_source(f"file:{notice}"), partial(_drain, Gcs(self.address("")), node_id), _say).run()
        return time.time()

    def strike(self, text: str) -> float:
        """Send a signal to a process, all of which are on this machine."""
        _, pid, number = text.split()
        return _send(int(pid), int(number))


class Attached(Looking):
    """The user's cluster.

    Args:
        address: where it is.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        ray.init(address=address, log_to_driver=False)

    def address(self, _: str) -> str:
        """Return where it is."""
        return self._address

    def end(self) -> None:
        """Leave it."""
        ray.shutdown()


def _alive() -> list[dict[str, Any]]:
    table: dict[str, dict[str, Any]] = ray._private.state.actors()
    return [one for one in table.values() if one["State"] == "ALIVE"]


def _drain(gcs: Gcs, node_id: str, notice: Notice) -> str:
    return drain_node(gcs, node_id, notice.reason, notice.deadline_ms)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _send(pid: int, number: int) -> float:
    """Send a signal; a process that the death of another one ended first gets none."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return time.time()


if __name__ == "__main__":
    serve(partial(Attached, sys.argv[1]) if len(sys.argv) > 1 else OwnNodes)
