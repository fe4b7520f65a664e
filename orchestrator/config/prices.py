"""Machine types, their accelerators and prices: a dated table, and the user's own entries over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from platformdirs.unix import Unix
from pydantic import Field

from orchestrator.config.cluster import Market
from orchestrator.config.document import Document
from orchestrator.config.errors import Finding, RecipeError
from orchestrator.config.loading import unknown_key, validate
from workloads.contract import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One type of machine.

    Args:
        name: as its cloud calls it.
        cpus: virtual CPUs.
        memory_gb: main memory, in GB.
        gpus: GPUs.
        accelerator: their type, such as H100; None without GPUs.
        on_demand_usd: per hour; None when unknown.
        spot_usd: per hour, as seen on the table's date; None when unknown.
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
        entry = self.machines.get(machine) if machine is not None else None
        if market == "owned":
            return (entry.on_demand_usd or 0.0) if entry else 0.0
        if entry is None:
            return None
        return entry.spot_usd if market == "spot" else entry.on_demand_usd


class MachineEntry(Section):
    """One machine in a file of prices."""

    cpus: int = Field(ge=1, description="Virtual CPUs.")
    memory_gb: float = Field(gt=0, description="Main memory, in GB.")
    gpus: int = Field(0, ge=0, description="GPUs.")
    accelerator: str | None = Field(None, description="Type of the GPUs, a key of accelerators.")
    on_demand_usd: float | None = Field(None, ge=0, description="Per hour; null: unknown.")
    spot_usd: float | None = Field(None, ge=0, description="Per hour, as last seen; null: unknown.")


class AcceleratorEntry(Section):
    """One type of GPU in a file of prices."""

    memory_gb: float = Field(gt=0, description="Its memory, in GB.")
    tflops_bfloat16: float = Field(gt=0, description="Dense peak of the tensor cores, in TFLOP/s.")


class PriceFile(Section):
    """A file of prices, ours or the user's."""

    as_of: date | None = Field(None, description="The date of the prices; null: as in the table below it.")
    machines: dict[str, MachineEntry] = Field({}, description="By name.")
    accelerators: dict[str, AcceleratorEntry] = Field({}, description="By name.")


def read_prices(override: Path | None = None) -> PriceTable:
    """Return the table that comes with Fuseray, with the user's own entries over it.

    Args:
        override: a file of the same form; each of its entries replaces or adds one. None takes
            `~/.config/fuseray/prices.yaml` (or below `XDG_CONFIG_HOME`) where it exists.

    Raises:
        ConfigError: a file cannot be read.
        RecipeError: a file is wrong; all errors are listed with file and line.
    """
    table = _merge_file(PriceTable(date.min, {}, {}), _BUILT_IN)
    own = override or _user_file()
    return _merge_file(table, own) if own else table


_BUILT_IN = Path(__file__).parent / "prices.yaml"


def _user_file() -> Path | None:
    path = Unix("fuseray").user_config_path / "prices.yaml"
    return path if path.is_file() else None


def _merge_file(table: PriceTable, path: Path) -> PriceTable:
    document = Document.read(path)
    document.refuse_variables()
    file = validate(PriceFile, document.to_dict(), document)
    if isinstance(file, list):
        raise RecipeError(file)
    accelerators = {name: Accelerator(name=name, **entry.model_dump()) for name, entry in file.accelerators.items()}
    machines = {name: Machine(name=name, **entry.model_dump()) for name, entry in file.machines.items()}
    merged = PriceTable(
        file.as_of or table.as_of, {**table.machines, **machines}, {**table.accelerators, **accelerators}
    )
    errors = [
        Finding(document.location(("machines", name)), message)
        for name in machines
        if (message := _machine_error(merged, name))
    ]
    if errors:
        raise RecipeError(errors)
    return merged


def _machine_error(table: PriceTable, name: str) -> str | None:
    machine = table.machines[name]
    if (machine.gpus > 0) != (machine.accelerator is not None):
        return f"machines.{name}: a machine has both gpus and an accelerator, or neither."
    if machine.accelerator is not None and machine.accelerator not in table.accelerators:
        return f"machines.{name}.accelerator: {unknown_key(machine.accelerator, table.accelerators)}"
    return None
