"""A cluster's machines, with what the price table knows about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.cluster.findings import Finding, warned
from orchestrator.config.cluster import Cluster, Market, NodeGroup
from orchestrator.config.prices import Accelerator, PriceTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
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

    def places(self, cpus_per_worker: float, use_gpu: bool) -> int:
        """Return how many workers one machine holds."""
        by_cpus = self.cpus / cpus_per_worker
        places = min(by_cpus, self.group.gpus) if use_gpu else by_cpus
        return int(min(places, MANY))


MANY = 10**6
"""Workers on a machine of which nobody knows how many CPUs it has."""


def kinds_of(cluster: Cluster, prices: PriceTable, cpus_here: int) -> list[Kind]:
    """Return a cluster's machines.

    Args:
        cluster: the cluster.
        prices: the price table.
        cpus_here: CPUs of this machine, which a local cluster consists of.
    """
    return [_kind(group, prices, cpus_here if cluster.kind == "local" else None) for group in cluster.groups]


def _kind(group: NodeGroup, prices: PriceTable, cpus_here: int | None) -> Kind:
    machine = prices.machines.get(group.machine or "")
    cpus = next(
        (known for known in (group.cpus, cpus_here, machine.cpus if machine else None) if known is not None), math.inf
    )
    owned = prices.usd_per_hour(group.machine, "owned")
    return Kind(
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


def check_prices(kinds: Sequence[Kind], prices: PriceTable) -> list[Finding]:
    """Find machines that are paid for without anybody knowing what they cost."""
    return [
        warned(
            "prices",
            f"{kind.group.name}: {_unpriced(kind)}, so what it costs is left out",
            f"Write it into a price table of your own, as in spec/prices.yaml, and name that with --prices FILE; "
            f"the prices that are known are of {prices.as_of:%-d %B %Y}.",
        )
        for kind in kinds
        if kind.group.most and kind.usd_per_hour is None
    ]


def _unpriced(kind: Kind) -> str:
    if kind.group.machine is None:
        return "the file does not say which type of machine it is"
    return f"no {kind.group.market} price of {kind.group.machine} is known"
