"""The scaling policy of elastic runs: how many workers a run has while nodes come and go.

Ray Train's own policy counts nodes that are draining or have just died, and so waits for workers that cannot be placed;
it leaves no CPU to the readers, without which the workers wait for ever; it shrinks a healthy run; and it treats a
preemption as a resize when it polls before Ray Train's preemption watcher does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from socket import create_connection
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from orchestrator.ray_internals import cluster_state
from orchestrator.stream.decoder import Node, can_read
from orchestrator.train.recovery.ray_internals import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    TrainAutoscalingCoordinatorClient,
)
from orchestrator.train.resources import AutoscalingRequest, reader_bundles

if TYPE_CHECKING:
    from ray.train.v2.api.config import ScalingConfig

    from orchestrator.train.recovery.ray_internals import (
        ScalingDecision,
        TrainRunContext,
        WorkerGroupPollStatus,
        WorkerGroupState,
    )

COORDINATOR_TIMEOUT_S = 5.0
"""How long the autoscaling coordinator may take to answer."""

PROBE_TIMEOUT_S = 2.0
"""How long a node may take to accept a connection."""

PARALLEL_PROBES = 32
"""Nodes that are probed at once."""

PAUSE_S = 0.5
"""Seconds between two decisions while there is too little room."""


def choose_workers(
    room_for: int, nodes: Sequence[Node], cpus_per_worker: float, reader_cpus: float, current: int | None = None
) -> int:
    """Return the number of workers to run, 0 when there is no room for one.

    A healthy run grows; it shrinks only when its readers have no CPUs left.

    Args:
        room_for: workers that the recipe allows and that can be placed.
        nodes: the nodes that stay.
        cpus_per_worker: CPUs that each worker reserves.
        reader_cpus: CPUs that stay free for reading.
        current: number of healthy workers; None when there are none.
    """

    def leaves_room(workers: int) -> bool:
        free = sum(node.cpus for node in nodes) - workers * cpus_per_worker
        return free >= reader_cpus and can_read(nodes, workers, cpus_per_worker)

    fitting = next((workers for workers in range(room_for, 0, -1) if leaves_room(workers)), 0)
    if current is not None and fitting < current and leaves_room(current):
        return current
    return fitting


class ElasticWorkers(ElasticScalingPolicy):
    """Ray Train's elastic policy with `choose_workers`.

    Args:
        scaling_config: how many workers, and what each reserves.
        requester_id: names the resource requests. A driver that takes over from one that died uses the same id;
            otherwise the dead driver's request would block it for three minutes.
        reader_cpus: CPUs that stay free for reading; until reading starts, they are requested as well.
        on_no_room: called when there is too little room to start.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        scaling_config: ScalingConfig,
        requester_id: str,
        reader_cpus: float,
        on_no_room: Callable[[], object],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(scaling_config)
        self._own_requester_id = requester_id
        self._reader_cpus = reader_cpus
        self._on_no_room = on_no_room
        self._sleep = sleep
        self._current: int | None = None
        self._readers = AutoscalingRequest(f"{requester_id} (readers)", reader_bundles(reader_cpus))

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Request what the workers need."""
        self._requester_id = self._own_requester_id
        self._coordinator_client = TrainAutoscalingCoordinatorClient(self._own_requester_id)
        self._send_resource_request()  # type: ignore[no-untyped-call]

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Decide how many workers to start; none while there is no room for the recipe's minimum."""
        self._current = None
        self._readers.hold()
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            self._on_no_room()
            self._sleep(PAUSE_S)
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Decide whether healthy workers are resized; one on a draining node is a preemption, not a resize."""
        self._current = worker_group_state.num_workers
        self._readers.release()
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        node_ids = {worker.metadata.node_id for worker in worker_group_state.workers}
        if isinstance(decision, ResizeDecision) and not node_ids.isdisjoint(_draining_nodes()):
            return NoopDecision()
        return decision

    async def before_controller_shutdown(self) -> None:
        """Withdraw the readers' request."""
        self._readers.release()
        await super().before_controller_shutdown()  # type: ignore[no-untyped-call]

    def before_controller_abort(self) -> None:
        """Withdraw the readers' request."""
        self._readers.release()
        super().before_controller_abort()  # type: ignore[no-untyped-call]

    def _get_reserved_resources(self) -> dict[str, dict[str, float]] | None:
        """Return the resources now reserved for this run, by node id; None when the coordinator does not answer."""
        reserved = self._autoscaling_coordinator.get_reserved_resources
        try:
            by_node: dict[str, dict[str, float]] = ray.get(
                reserved.remote(self._requester_id, recompute=True), timeout=COORDINATOR_TIMEOUT_S
            )
        except (GetTimeoutError, RayError):
            return None
        return by_node

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        staying = _staying_nodes()
        own = {node_id: reserved for node_id, reserved in reserved_resources.items() if node_id in staying}
        return choose_workers(
            super()._count_possible_workers(own),
            list(staying.values()),
            self.scaling_config._resources_per_worker_not_none["CPU"],
            self._reader_cpus,
            self._current,
        )


def _staying_nodes() -> dict[str, Node]:
    """Return the nodes that answer and are not draining, by id; Ray takes seconds to notice that one is gone."""
    draining = _draining_nodes()
    alive: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]
    with ThreadPoolExecutor(PARALLEL_PROBES, thread_name_prefix="probe") as pool:
        answers = pool.map(_answers, alive)
    return {
        node["NodeID"]: Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node, answered in zip(alive, answers, strict=True)
        if answered
    }


def _draining_nodes() -> Collection[str]:
    """Return the ids of the draining nodes."""
    draining: Mapping[str, int] = cluster_state.get_draining_nodes()
    return draining.keys()


def _answers(node: Mapping[str, Any]) -> bool:
    """Return whether a node's raylet accepts connections."""
    try:
        create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True
