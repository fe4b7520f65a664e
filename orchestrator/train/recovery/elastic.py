"""How many workers an elastic run has while machines come and go.

Ray Train's own policy counts machines that drain or have just died, and so waits for workers that nothing can place;
it leaves no CPU to the readers, without whom the workers wait for ever; it shrinks a run that is well; and it takes a
preemption for a change of size when it looks before Ray Train's watcher does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from socket import create_connection
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)

from orchestrator.stream.decoder import Node, can_read
from orchestrator.train.resources import AutoscalingRequest, reader_bundles

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.context import TrainRunContext
    from ray.train.v2._internal.execution.scaling_policy import ScalingDecision
    from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
    from ray.train.v2.api.config import ScalingConfig

PATIENCE_S = 5.0
"""How long the coordinator may take to answer."""

PROBE_S = 2.0
"""How long a machine may take to accept a connection."""

PROBES = 32
"""Machines that are asked at once."""

PAUSE_S = 0.5
"""Between two looks for room, while there is too little."""


def choose_workers(
    room_for: int, nodes: Sequence[Node], cpus_per_worker: float, reader_cpus: float, current: int | None = None
) -> int:
    """Return how many workers there shall be, 0 when not even one has room.

    A run that is well grows; it shrinks only when its readers have lost their room.

    Args:
        room_for: workers that are wanted and that this run may place.
        nodes: machines that stay.
        cpus_per_worker: CPUs that each reserves.
        reader_cpus: CPUs that stay free for reading.
        current: workers that are well; None when there are none.
    """

    def leaves_room(workers: int) -> bool:
        free = sum(node.cpus for node in nodes) - workers * cpus_per_worker
        return free >= reader_cpus and can_read(nodes, workers, cpus_per_worker)

    fitting = next((workers for workers in range(room_for, 0, -1) if leaves_room(workers)), 0)
    if current is not None and fitting < current and leaves_room(current):
        return current
    return fitting


class ElasticWorkers(ElasticScalingPolicy):
    """Ray Train's policy with the decision above.

    Args:
        scaling_config: how many workers, and what each reserves.
        claimant: who reserves it. A driver that takes over from one that died claims in the same name; otherwise the
            dead one's claim would stand in its way for three minutes.
        reader_cpus: CPUs that stay free for reading; as long as nothing is read yet, they are asked for, too.
        waiting: called when there is too little room to start.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        scaling_config: ScalingConfig,
        claimant: str,
        reader_cpus: float,
        waiting: Callable[[], object],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(scaling_config)
        self._claimant = claimant
        self._reader_cpus = reader_cpus
        self._waiting = waiting
        self._sleep = sleep
        self._current: int | None = None
        self._readers = AutoscalingRequest(f"{claimant} (readers)", reader_bundles(reader_cpus))

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Claim what the workers need."""
        self._requester_id = self._claimant
        self._coordinator_client = TrainAutoscalingCoordinatorClient(self._claimant)
        self._send_resource_request()  # type: ignore[no-untyped-call]

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Decide how many workers to start; none as long as there are fewer than the recipe wants at least."""
        self._current = None
        self._readers.hold()
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            self._waiting()
            self._sleep(PAUSE_S)
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Decide whether workers that are well shall be more or fewer; those on a machine that drains are preempted."""
        self._current = worker_group_state.num_workers
        self._readers.release()
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        machines = {worker.metadata.node_id for worker in worker_group_state.workers}
        if isinstance(decision, ResizeDecision) and not machines.isdisjoint(_draining_nodes()):
            return NoopDecision()
        return decision

    async def before_controller_shutdown(self) -> None:
        """Ask for nothing any more."""
        self._readers.release()
        await super().before_controller_shutdown()  # type: ignore[no-untyped-call]

    def before_controller_abort(self) -> None:
        """Ask for nothing any more."""
        self._readers.release()
        super().before_controller_abort()  # type: ignore[no-untyped-call]

    def _get_reserved_resources(self) -> dict[str, dict[str, float]] | None:
        """Return what the coordinator reserves for this run by node, as of now; None when it does not answer."""
        reserved = self._autoscaling_coordinator.get_reserved_resources
        try:
            found: dict[str, dict[str, float]] = ray.get(
                reserved.remote(self._requester_id, recompute=True), timeout=PATIENCE_S
            )
        except (GetTimeoutError, RayError):
            return None
        return found

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        staying = _staying_nodes()
        mine = {node_id: reserved for node_id, reserved in reserved_resources.items() if node_id in staying}
        return choose_workers(
            super()._count_possible_workers(mine),
            list(staying.values()),
            self.scaling_config._resources_per_worker_not_none["CPU"],
            self._reader_cpus,
            self._current,
        )


def _staying_nodes() -> dict[str, Node]:
    """Return the machines that answer and do not drain, by id; Ray takes seconds to notice that one is gone."""
    draining = _draining_nodes()
    alive: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]
    with ThreadPoolExecutor(PROBES, thread_name_prefix="probe") as pool:
        answers = pool.map(_answers, alive)
    return {
        node["NodeID"]: Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node, answered in zip(alive, answers, strict=True)
        if answered
    }


def _draining_nodes() -> Collection[str]:
    """Return the machines that are about to go away, by id."""
    draining: Mapping[str, int] = ray._private.state.state.get_draining_nodes()
    return draining.keys()


def _answers(node: Mapping[str, Any]) -> bool:
    """Return whether a machine's Ray takes connections."""
    try:
        create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), PROBE_S).close()
    except OSError:
        return False
    return True
