"""What machines are and what they cost: a dated table, and the user's own figures over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from orchestrator.spec.cluster import Market


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One type of machine.

    Args:
        name: as its cloud names it.
        cpus: virtual CPUs.
        memory_gb: main memory, in GB.
        gpus: GPUs.
        accelerator: their type, such as H100; None without GPUs.
        on_demand_usd: per hour; None when unknown.
        spot_usd: per hour, as seen on the table's date; it changes all the time; None when unknown.
    """

    name: str
    cpus: int
    memory_gb: float
    gpus: int = 0
    accelerator: str | None = None
    on_demand_usd: float | None = None
    spot_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One type of GPU.

    Args:
        name: such as H100.
        memory_gb: its memory, in GB.
        tflops_bfloat16: dense peak of the tensor cores, in TFLOP/s.
    """

    name: str
    memory_gb: float
    tflops_bfloat16: float


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Machines by name.

    Args:
        as_of: the date of the prices.
        machines: by name.
        accelerators: by name.
    """

    as_of: date
    machines: Mapping[str, Machine]
    accelerators: Mapping[str, Accelerator]

    def usd_per_hour(self, machine: str | None, market: Market) -> float | None:
        """Return the price of one machine; None when it is unknown, 0 for `owned` machines without a price."""
        found = self.machines.get(machine) if machine is not None else None
        if market == "owned":
            return (found.on_demand_usd or 0.0) if found else 0.0
        if found is None:
            return None
        return found.spot_usd if market == "spot" else found.on_demand_usd
