"""The nodes that a run needs to begin: those that are there, or those that it requests from Ray's autoscaler."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import ray
from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator

from orchestrator.config.cluster import NodeGroup
from orchestrator.config.errors import ConfigError
from orchestrator.config.prices import Machine
from orchestrator.config.recipe import Recipe
from orchestrator.stream.decoder import Node, decoded_share
from orchestrator.train.plan import Plan, check_machines

POLL_EVERY_S = 1.0


class ResourceRequest(Protocol):
    """A request to the cluster for resources, which must be renewed to be kept."""

    def hold(self) -> None:
        """Send or renew the request."""
        ...

    def release(self) -> None:
        """Cancel the request."""
        ...


@dataclass(frozen=True, slots=True)
class AutoscalingCapacity:
    """How far a cluster can scale.

    Args:
        most: its nodes at full size; None when unknown.
    """

    most: Sequence[Node] | None


def present_nodes() -> list[Node]:
    """Return the resources of the nodes that are alive."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in resources]


def present_decoded_share(plan: Plan, workers: int) -> float:
    """Return the share of micro-batches that the readers decode on the present nodes."""
    return decoded_share(
        plan.recipe.stream.decode_on, present_nodes(), workers, plan.recipe.scale.cpus_per_worker, plan.decode_threads
    )


@dataclass(frozen=True)
class NodeWait:
    """Waits for the nodes that a run needs at least.

    Args:
        recipe: determines what it needs, and how long it waits.
        capacity: how far the cluster can scale; None when it does not autoscale.
        request: requests what is lacking.
        log: takes messages for the user.
        present: returns the nodes that are alive.
        clock: monotonic time in seconds.
        sleep: waits some seconds.
    """

    recipe: Recipe
    capacity: AutoscalingCapacity | None
    request: ResourceRequest
    log: Callable[[str], None]
    present: Callable[[], list[Node]] = present_nodes
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def wait(self, stopped: Callable[[], bool]) -> bool:
        """Wait until the nodes are there; return False when stopped before.

        Args:
            stopped: whether the run is to stop.

        Raises:
            ConfigError: the cluster cannot have them, or they do not come in time.
        """
        nodes = self.present()
        if self.capacity is None:
            check_machines(self.recipe, nodes)
            return True
        if self.capacity.most is not None:
            check_machines(self.recipe, self.capacity.most)
        if _enough(self.recipe, nodes):
            return True
        needs = describe_needs(self.recipe)
        self.log(f"waiting for machines: have {describe_nodes(nodes)}, asked for {needs}")
        try:
            return self._wait(stopped)
        finally:
            self.request.release()

    def _wait(self, stopped: Callable[[], bool]) -> bool:
        began_s = self.clock()
        timeout_s = self.recipe.scale.machines_wait_s
        while not _enough(self.recipe, nodes := self.present()):
            if stopped():
                return False
            if self.clock() - began_s > timeout_s:
                raise ConfigError(
                    f"scale.machines_wait_s: for {timeout_s:g} s the cluster has not brought what the run needs "
                    f"({describe_needs(self.recipe)}); it has {describe_nodes(nodes)}. See why its autoscaler brings "
                    "no machines (`ray status`, quotas, spot capacity), lower scale.workers, or wait for longer."
                )
            self.request.hold()
            self.sleep(POLL_EVERY_S)
        self.log(f"the machines are there after {self.clock() - began_s:.0f} s: {describe_nodes(nodes)}")
        return True


def _enough(recipe: Recipe, nodes: Sequence[Node]) -> bool:
    try:
        check_machines(recipe, nodes)
    except ConfigError:
        return False
    return True


Bundle = dict[str, float]
"""Resources that must be free on one node, by Ray's resource names."""


def nodes_at_full_size(groups: Iterable[NodeGroup], machines: Mapping[str, Machine]) -> list[Node] | None:
    """Return the nodes of a cluster at full size; None when unknown.

    Args:
        groups: as the cluster's file describes them.
        machines: known types of machines, for groups whose file does not give their CPUs.
    """
    nodes: list[Node] = []
    for group in groups:
        known = machines.get(group.machine) if group.machine is not None else None
        cpus = group.cpus if group.cpus is not None else known.cpus if known is not None else None
        if cpus is None:
            return None
        nodes += [Node(cpus, group.gpus)] * group.most
    return nodes


def minimum_bundles(recipe: Recipe) -> list[Bundle]:
    """Return the bundles that a run needs at least: of its fewest workers, its readers, and the evaluation beside."""
    beside: list[Bundle] = []
    if recipe.measures_beside:
        gpus = recipe.beside_gpus
        beside = [{"CPU": recipe.beside_cpus} | ({"GPU": gpus} if gpus else {})]
    readers = reader_bundles(recipe.stream.reader_cpus)
    return [worker_bundle(recipe)] * recipe.scale.min_workers + readers + beside


def worker_bundle(recipe: Recipe) -> Bundle:
    """Return the bundle of one worker."""
    cpus: Bundle = {"CPU": recipe.scale.cpus_per_worker}
    return cpus | {"GPU": 1.0} if recipe.scale.use_gpu else cpus


def reader_bundles(reader_cpus: float) -> list[Bundle]:
    """Return the bundles of the readers: whole CPUs, on any nodes."""
    return [{"CPU": 1.0}] * math.ceil(reader_cpus)


def describe_nodes(nodes: Iterable[Node]) -> str:
    """Return the resources of nodes in words."""
    nodes = list(nodes)
    gpus = sum(node.gpus for node in nodes)
    of_gpus = f" and {gpus:g} GPUs" if gpus else ""
    return f"{len(nodes)} machines with {sum(node.cpus for node in nodes):g} CPUs{of_gpus}"


def describe_needs(recipe: Recipe) -> str:
    """Return what a run needs at least, in words."""
    scale, each = recipe.scale, "1 GPU and " if recipe.scale.use_gpu else ""
    return (
        f"{scale.min_workers} x {each}{scale.cpus_per_worker:g} CPUs for workers and "
        f"{recipe.stream.reader_cpus:g} CPUs for reading"
    )


EXPIRES_S = 60
"""A request expires when it is not renewed for so long, so that it ends with its driver."""

RENEW_EVERY_S = 20.0


class AutoscalingRequest:
    """Requests resources, beyond those of the workers, from Ray's autoscaling coordinator.

    Ray adds up the requests of all jobs on a cluster; its autoscaler starts nodes until all of them would fit.

    Args:
        requester_id: names the request; a second one of the same name replaces the first.
        bundles: the resources, each bundle on one node.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, requester_id: str, bundles: Sequence[Bundle], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._coordinator = DefaultAutoscalingCoordinator(requester_id)
        self._bundles = [dict(bundle) for bundle in bundles]
        self._clock = clock
        self._requested_s: float | None = None

    def hold(self) -> None:
        """Send the request, or renew it when that is due; may be called at any rate."""
        if self._requested_s is None or self._clock() - self._requested_s >= RENEW_EVERY_S:
            self._coordinator.request_resources(self._bundles, expire_after_s=EXPIRES_S)
            self._requested_s = self._clock()

    def release(self) -> None:
        """Cancel the request, if there is one."""
        if self._requested_s is not None:
            self._coordinator.cancel_request()
            self._requested_s = None
