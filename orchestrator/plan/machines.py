"""A cluster's node types with their prices, and how many nodes of each a run needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.cluster.findings import Finding, warned
from orchestrator.config.cluster import Cluster, Market, NodeGroup
from orchestrator.config.prices import Accelerator, PriceTable
from orchestrator.config.recipe import Recipe, ScaleSection
from orchestrator.stream.decoder import Node

MAX_WORKER_SLOTS = 10**6
"""Workers on a machine with an unknown number of CPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """The machines of one group of a cluster.

    Args:
        group: the group.
        cpus: of one machine; infinite when unknown.
        memory_gb: main memory of one machine; None when unknown.
        accelerator: the type of its GPUs; None without GPUs, or when unknown.
        prices: US dollars an hour by how a machine is paid for; None where unknown.
    """

    group: NodeGroup
    cpus: float
    memory_gb: float | None
    accelerator: Accelerator | None
    prices: dict[Market, float | None]

    @property
    def usd_per_hour(self) -> float | None:
        """The price for the market that the cluster's file names."""
        return self.prices[self.group.market]

    def worker_slots(self, cpus_per_worker: float, use_gpu: bool) -> int:
        """Return how many workers fit one machine."""
        by_cpus = self.cpus / cpus_per_worker
        slots = min(by_cpus, self.group.gpus) if use_gpu else by_cpus
        return int(min(slots, MAX_WORKER_SLOTS))


def node_types_of(cluster: Cluster, prices: PriceTable, cpus_here: int) -> list[NodeType]:
    """Return a cluster's node types.

    Args:
        cluster: the cluster.
        prices: the price table.
        cpus_here: CPUs of this machine, which is all that a local cluster consists of.
    """
    return [_node_type(group, prices, cpus_here if cluster.kind == "local" else None) for group in cluster.groups]


def _node_type(group: NodeGroup, prices: PriceTable, cpus_here: int | None) -> NodeType:
    machine = prices.machines.get(group.machine or "")
    cpus = next(
        (known for known in (group.cpus, cpus_here, machine.cpus if machine else None) if known is not None), math.inf
    )
    owned = prices.usd_per_hour(group.machine, "owned")
    return NodeType(
        group=group,
        cpus=cpus,
        memory_gb=machine.memory_gb if machine else None,
        accelerator=prices.accelerators.get(machine.accelerator or "") if machine and group.gpus else None,
        prices={
            "owned": owned,
            "spot": owned if group.market == "owned" else prices.usd_per_hour(group.machine, "spot"),
            "on-demand": owned if group.market == "owned" else prices.usd_per_hour(group.machine, "on-demand"),
        },
    )


def check_prices(node_types: Sequence[NodeType], prices: PriceTable) -> list[Finding]:
    """Return a warning for every node type whose price is unknown."""
    return [
        warned(
            "prices",
            f"{node_type.group.name}: {_unpriced(node_type)}, so what it costs is left out",
            "Write it into a price table of your own, as in orchestrator/config/prices.yaml, and name that with "
            f"--prices FILE; the prices that are known are of {prices.as_of:%-d %B %Y}.",
        )
        for node_type in node_types
        if node_type.group.most and node_type.usd_per_hour is None
    ]


def _unpriced(node_type: NodeType) -> str:
    if node_type.group.machine is None:
        return "the file does not say which type of machine it is"
    return f"no {node_type.group.market} price of {node_type.group.machine} is known"


@dataclass(frozen=True, slots=True)
class NodeAllocation:
    """Nodes of one type and the workers on them.

    Args:
        node_type: the type.
        machines: how many nodes.
        workers: training workers on all of them together.
    """

    node_type: NodeType
    machines: int
    workers: int = 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes of a run.

    Args:
        allocations: one for each group of the cluster, in its order.
        cpus_per_worker: reserved for each worker.
    """

    allocations: tuple[NodeAllocation, ...]
    cpus_per_worker: float

    @property
    def workers(self) -> int:
        """Training workers that fit."""
        return sum(allocation.workers for allocation in self.allocations)

    @property
    def spare_cpus(self) -> float:
        """CPUs that the workers leave for reading and decoding; infinite when unknown."""
        cpus = sum(
            allocation.node_type.cpus * allocation.machines for allocation in self.allocations if allocation.machines
        )
        return cpus - self.workers * self.cpus_per_worker

    @property
    def nodes(self) -> list[Node]:
        """The nodes one by one."""
        return [
            Node(allocation.node_type.cpus, allocation.node_type.group.gpus)
            for allocation in self.allocations
            for _ in range(allocation.machines)
        ]

    def usd_per_hour(self, price: Callable[[NodeType], float | None]) -> float | None:
        """Return what all nodes cost together; None when the price of one is unknown.

        Args:
            price: US dollars an hour of one node of a type.
        """
        prices = [
            (price(allocation.node_type), allocation.machines) for allocation in self.allocations if allocation.machines
        ]
        if any(usd is None for usd, _ in prices):
            return None
        return sum((usd or 0.0) * machines for usd, machines in prices)


def fleet_for(node_types: Sequence[NodeType], workers: int, recipe: Recipe, reading_cpus: float) -> Fleet:
    """Return the nodes that hold some workers and leave CPUs for reading.

    Nodes that are always up are filled first, then the types that hold a worker for the least money. Nodes without
    GPUs are added while the spare CPUs do not suffice for reading; nodes with GPUs are added only up to the CPUs that
    the recipe reserves for it (`stream.reader_cpus`).

    Args:
        node_types: of the cluster.
        workers: how many are needed; the fleet has fewer when the cluster holds no more.
        recipe: what each of them needs.
        reading_cpus: CPUs to leave for reading.
    """
    scale = recipe.scale
    allocations = {
        number: NodeAllocation(node_type, node_type.group.fewest) for number, node_type in enumerate(node_types)
    }
    order = sorted(allocations, key=lambda number: _worker_price(node_types[number], scale))
    for grow in (False, True):
        for number in order:
            missing = workers - sum(allocation.workers for allocation in allocations.values())
            allocations[number] = _place_workers(allocations[number], missing, scale, grow)
    fleet = Fleet(tuple(allocations[number] for number in sorted(allocations)), scale.cpus_per_worker)
    return _with_readers(fleet, reading_cpus, recipe.stream.reader_cpus)


def _worker_price(node_type: NodeType, scale: ScaleSection) -> tuple[bool, float]:
    """Return a sort key: for workers on CPUs, types without GPUs first; then by the price of a worker."""
    slots = node_type.worker_slots(scale.cpus_per_worker, scale.use_gpu)
    usd = node_type.usd_per_hour
    price = math.inf if usd is None or not slots else usd / slots
    return not scale.use_gpu and node_type.group.gpus > 0, price


def _place_workers(allocation: NodeAllocation, missing: int, scale: ScaleSection, grow: bool) -> NodeAllocation:
    slots = allocation.node_type.worker_slots(scale.cpus_per_worker, scale.use_gpu)
    if not slots or missing <= 0:
        return allocation
    needed, most = math.ceil((allocation.workers + missing) / slots), allocation.node_type.group.most
    machines = max(allocation.machines, min(needed, most)) if grow else allocation.machines
    return NodeAllocation(allocation.node_type, machines, min(allocation.workers + missing, machines * slots))


def _with_readers(fleet: Fleet, reading_cpus: float, reserved_cpus: float) -> Fleet:
    allocations = list(fleet.allocations)
    for number in sorted(range(len(allocations)), key=lambda number: _cpu_price(allocations[number].node_type)):
        allocation = allocations[number]
        node_type = allocation.node_type
        needed = reserved_cpus if node_type.group.gpus else reading_cpus
        lacking = needed - replace(fleet, allocations=tuple(allocations)).spare_cpus
        added = math.ceil(lacking / node_type.cpus) if lacking > 0 and node_type.cpus else 0
        machines = max(allocation.machines, min(allocation.machines + added, node_type.group.most))
        allocations[number] = replace(allocation, machines=machines)
    return replace(fleet, allocations=tuple(allocations))


def _cpu_price(node_type: NodeType) -> tuple[bool, float]:
    usd = node_type.usd_per_hour
    return node_type.group.gpus > 0, math.inf if usd is None or not node_type.cpus else usd / node_type.cpus
