"""A cluster's machines, with what the price table knows about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.cluster.findings import Finding, warned
from orchestrator.config.cluster import Cluster, Market, NodeGroup
from orchestrator.config.prices import Accelerator, PriceTable
from orchestrator.config.recipe import Recipe, ScaleSection
from orchestrator.stream.decoder import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """Machines of one group.

    Args:
        group: the group.
        cpus: of one machine; infinite when nobody knows.
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
        """The price as the cluster's file has it."""
        return self.prices[self.group.market]

    def worker_slots(self, cpus_per_worker: float, use_gpu: bool) -> int:
        """Return how many workers one machine holds."""
        by_cpus = self.cpus / cpus_per_worker
        worker_slots = min(by_cpus, self.group.gpus) if use_gpu else by_cpus
        return int(min(places, MANY))


MANY = 10**6
"""Workers on a machine of which nobody knows how many CPUs it has."""


def node_types_of(cluster: Cluster, prices: PriceTable, cpus_here: int) -> list[NodeType]:
    """Return a cluster's machines.

    Args:
        cluster: the cluster.
        prices: the price table.
        cpus_here: CPUs of this machine, which a local cluster consists of.
    """
    return [_kind(group, prices, cpus_here if cluster.kind == "local" else None) for group in cluster.groups]


def _kind(group: NodeGroup, prices: PriceTable, cpus_here: int | None) -> NodeType:
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
    """Find machines that are paid for without anybody knowing what they cost."""
    return [
        warned(
            "prices",
            f"{kind.group.name}: {_unpriced(kind)}, so what it costs is left out",
            f"Write it into a price table of your own, as in spec/prices.yaml, and name that with --prices FILE; "
            f"the prices that are known are of {prices.as_of:%-d %B %Y}.",
        )
        for kind in node_types
        if kind.group.most and kind.usd_per_hour is None
    ]


def _unpriced(kind: NodeType) -> str:
    if kind.group.machine is None:
        return "the file does not say which type of machine it is"
    return f"no {kind.group.market} price of {kind.group.machine} is known"


# How many machines of which kind a run needs: a pure decision.


@dataclass(frozen=True, slots=True)
class Berth:
    """Machines of one kind with what runs on them.

    Args:
        kind: the kind.
        machines: how many.
        workers: training workers on them, all together.
    """

    kind: NodeType
    machines: int
    workers: int = 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The machines of a run.

    Args:
        berths: one for each group of the cluster, in its order.
        cpus_per_worker: reserved for each worker.
    """

    berths: tuple[Berth, ...]
    cpus_per_worker: float

    @property
    def workers(self) -> int:
        """Training workers that found room."""
        return sum(berth.workers for berth in self.berths)

    @property
    def spare_cpus(self) -> float:
        """CPUs that the workers leave for reading and decoding; infinite when nobody knows."""
        cpus = sum(berth.kind.cpus * berth.machines for berth in self.berths if berth.machines)
        return cpus - self.workers * self.cpus_per_worker

    @property
    def nodes(self) -> list[Node]:
        """The machines one by one."""
        return [Node(one.kind.cpus, one.kind.group.gpus) for one in self.berths for _ in range(one.machines)]

    def usd_per_hour(self, price: Callable[[NodeType], float | None]) -> float | None:
        """Return what all machines cost together; None when the price of one is unknown.

        Args:
            price: of one machine of a kind.
        """
        prices = [(price(one.kind), one.machines) for one in self.berths if one.machines]
        if any(usd is None for usd, _ in prices):
            return None
        return sum((usd or 0.0) * machines for usd, machines in prices)


def fleet_for(node_types: Sequence[NodeType], workers: int, recipe: Recipe, reading_cpus: float) -> Fleet:
    """Return the machines that hold some workers, and that leave CPUs to read with.

    Machines that are always there are filled first, then the kinds that hold a worker for the least money. Machines
    without GPUs are added while the CPUs that are left do not suffice to read with; such with GPUs are added only for
    as many CPUs as the recipe keeps free for it.

    Args:
        kinds: the cluster's machines.
        workers: how many are wanted; the fleet has fewer when there is no more room.
        recipe: what each of them needs.
        reading_cpus: CPUs to be left over.
    """
    scale = recipe.scale
    berths = {number: Berth(kind, kind.group.fewest) for number, kind in enumerate(node_types)}
    order = sorted(berths, key=lambda number: _worker_price(node_types[number], scale))
    for grow in (False, True):
        for number in order:
            missing = workers - sum(berth.workers for berth in berths.values())
            berths[number] = _board(berths[number], missing, scale, grow)
    fleet = Fleet(tuple(berths[number] for number in sorted(berths)), scale.cpus_per_worker)
    return _with_readers(fleet, reading_cpus, recipe.stream.reader_cpus)


def _worker_price(kind: NodeType, scale: ScaleSection) -> tuple[bool, float]:
    """Return what sorts kinds: machines without GPUs hold workers on CPUs first; then the price of a worker."""
    worker_slots = kind.worker_slots(scale.cpus_per_worker, scale.use_gpu)
    usd = kind.usd_per_hour
    price = math.inf if usd is None or not places else usd / places
    return not scale.use_gpu and kind.group.gpus > 0, price


def _board(berth: Berth, missing: int, scale: ScaleSection, grow: bool) -> Berth:
    worker_slots = berth.kind.worker_slots(scale.cpus_per_worker, scale.use_gpu)
    if not places or missing <= 0:
        return berth
    wanted = math.ceil((berth.workers + missing) / places)
    machines = max(berth.machines, min(wanted, berth.kind.group.most)) if grow else berth.machines
    return Berth(berth.kind, machines, min(berth.workers + missing, machines * places))


def _with_readers(fleet: Fleet, wanted_cpus: float, kept_free_cpus: float) -> Fleet:
    berths = list(fleet.berths)
    for number in sorted(range(len(berths)), key=lambda number: _cpu_price(berths[number].kind)):
        berth = berths[number]
        asked = kept_free_cpus if berth.kind.group.gpus else wanted_cpus
        lacking = asked - replace(fleet, berths=tuple(berths)).spare_cpus
        more = math.ceil(lacking / berth.kind.cpus) if lacking > 0 and berth.kind.cpus else 0
        machines = max(berth.machines, min(berth.machines + more, berth.kind.group.most))
        berths[number] = replace(berth, machines=machines)
    return replace(fleet, berths=tuple(berths))


def _cpu_price(kind: NodeType) -> tuple[bool, float]:
    usd = kind.usd_per_hour
    return kind.group.gpus > 0, math.inf if usd is None or not kind.cpus else usd / kind.cpus
