"""The machines that a run begins on: those that are there, or those that an autoscaling cluster brings."""

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

LOOK_EVERY_S = 1.0


class ResourceRequest(Protocol):
    """Something that can be asked of the cluster."""

    def hold(self) -> None:
        """Ask, again and again."""
        ...

    def release(self) -> None:
        """Ask no more."""
        ...


@dataclass(frozen=True, slots=True)
class AutoscalingCapacity:
    """What a cluster can become.

    Args:
        most: its machines when all are there that may come; None when that cannot be told beforehand.
    """

    most: Sequence[Node] | None


def present_nodes() -> list[Node]:
    """Return what the machines offer that are there."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in resources]


def present_decoded_share(plan: Plan, workers: int) -> float:
    """Return the share of micro-batches that the readers decode, with the machines that are there."""
    return decoded_share(
        plan.recipe.stream.decode_on, present_nodes(), workers, plan.recipe.scale.cpus_per_worker, plan.decode_threads
    )


@dataclass(frozen=True)
class NodeWait:
    """Waits for the machines that a run cannot begin without.

    Args:
        recipe: says what it needs, and how long it waits.
        capacity: what the cluster can become; None when it stays as it is.
        request: asks for what is lacking.
        log: takes messages for the user.
        look: returns the machines that are there.
        clock: seconds that only go forward.
        sleep: waits some seconds.
    """

    recipe: Recipe
    capacity: AutoscalingCapacity | None
    request: ResourceRequest
    log: Callable[[str], None]
    look: Callable[[], list[Node]] = present_nodes
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def wait(self, stopped: Callable[[], bool]) -> bool:
        """Wait until the machines are there; return False when asked to stop before.

        Args:
            stopped: whether the run is to end.

        Raises:
            ConfigError: they cannot come, or do not come in time.
        """
        nodes = self.look()
        if self.capacity is None:
            check_machines(self.recipe, nodes)
            return True
        if self.capacity.most is not None:
            check_machines(self.recipe, self.capacity.most)
        if _enough(self.recipe, nodes):
            return True
        needs = needs_in_words(self.recipe)
        self.log(f"waiting for machines: have {in_words(nodes)}, asked for {needs}")
        try:
            return self._wait(stopped)
        finally:
            self.request.release()

    def _wait(self, stopped: Callable[[], bool]) -> bool:
        began_s = self.clock()
        limit_s = self.recipe.scale.machines_wait_s
        while not _enough(self.recipe, nodes := self.look()):
            if stopped():
                return False
            if self.clock() - began_s > limit_s:
                raise ConfigError(
                    f"scale.machines_wait_s: for {limit_s:g} s the cluster has not brought what the run needs "
                    f"({needs_in_words(self.recipe)}); it has {in_words(nodes)}. See why its autoscaler brings no "
                    "machines (`ray status`, quotas, spot capacity), lower scale.workers, or wait for longer."
                )
            self.request.hold()
            self.sleep(LOOK_EVERY_S)
        self.log(f"the machines are there after {self.clock() - began_s:.0f} s: {in_words(nodes)}")
        return True


def _enough(recipe: Recipe, nodes: Sequence[Node]) -> bool:
    try:
        check_machines(recipe, nodes)
    except ConfigError:
        return False
    return True


# What a cluster can become, as the run's driver needs to know it. Pure.


Bundle = dict[str, float]
"""What is to be free on one machine, by Ray's names of resources."""


def largest(groups: Iterable[NodeGroup], machines: Mapping[str, Machine]) -> list[Node] | None:
    """Return the machines that a cluster has when all that may come are there; None when that cannot be told.

    Args:
        groups: as the cluster's file describes them.
        machines: what is known of types of machines, for groups whose file leaves their CPUs to the machine.
    """
    nodes: list[Node] = []
    for group in groups:
        known = machines.get(group.machine) if group.machine is not None else None
        cpus = group.cpus if group.cpus is not None else known.cpus if known is not None else None
        if cpus is None:
            return None
        nodes += [Node(cpus, group.gpus)] * group.most
    return nodes


def least_bundles(recipe: Recipe) -> list[Bundle]:
    """Return what has to be free before a run can begin: its fewest workers, and CPUs to read with."""
    return [worker_bundle(recipe)] * recipe.scale.min_workers + reader_bundles(recipe.stream.reader_cpus)


def worker_bundle(recipe: Recipe) -> Bundle:
    """Return what one worker reserves."""
    cpus: Bundle = {"CPU": recipe.scale.cpus_per_worker}
    return cpus | {"GPU": 1.0} if recipe.scale.use_gpu else cpus


def reader_bundles(reader_cpus: float) -> list[Bundle]:
    """Return what is kept free for reading: whole CPUs, on whatever machines."""
    return [{"CPU": 1.0}] * math.ceil(reader_cpus)


def in_words(nodes: Iterable[Node]) -> str:
    """Return how much some machines offer."""
    found = list(nodes)
    gpus = sum(node.gpus for node in found)
    of_gpus = f" and {gpus:g} GPUs" if gpus else ""
    return f"{len(found)} machines with {sum(node.cpus for node in found):g} CPUs{of_gpus}"


def needs_in_words(recipe: Recipe) -> str:
    """Return what a run cannot begin without."""
    scale, each = recipe.scale, "1 GPU and " if recipe.scale.use_gpu else ""
    return (
        f"{scale.min_workers} x {each}{scale.cpus_per_worker:g} CPUs for workers and "
        f"{recipe.stream.reader_cpus:g} CPUs for reading"
    )


# What a run asks of the cluster beyond its workers, in the book that Ray Data and Ray Train keep of such wishes.


EXPIRES_S = 60
"""A wish is forgotten when it is not renewed for so long, should its driver die."""

RENEW_EVERY_S = 20.0


class AutoscalingRequest:
    """Asks Ray's autoscaler for machines, and keeps those there that answer it.

    Ray adds up the wishes of all that run on a cluster; its autoscaler starts machines until all of them would fit.

    Args:
        claimant: who asks; one name asks once.
        bundles: what is to be free, each on one machine.
        clock: seconds that only go forward.
    """

    def __init__(self, claimant: str, bundles: Sequence[Bundle], clock: Callable[[], float] = time.monotonic) -> None:
        self._coordinator = DefaultAutoscalingCoordinator(claimant)
        self._bundles = [dict(bundle) for bundle in bundles]
        self._clock = clock
        self._asked_s: float | None = None

    def hold(self) -> None:
        """Ask, or ask again when it is time; may be called as often as one likes."""
        if self._asked_s is None or self._clock() - self._asked_s >= RENEW_EVERY_S:
            self._coordinator.request_resources(self._bundles, expire_after_s=EXPIRES_S)
            self._asked_s = self._clock()

    def release(self) -> None:
        """Take the wish back, if there is one."""
        if self._asked_s is not None:
            self._coordinator.cancel_request()
            self._asked_s = None
