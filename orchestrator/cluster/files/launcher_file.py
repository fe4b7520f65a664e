"""A file for Ray's cluster launcher (`ray up`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from orchestrator.cluster.files.faults import Faults, listing, mapping, refuse_all
from orchestrator.cluster.files.node_type_rules import TYPES, check_node_types
from orchestrator.cluster.files.node_types import machine_of, market_of
from orchestrator.cluster.files.providers import check_provider
from orchestrator.cluster.files.ray_schema import check_as_ray_does, check_schema
from orchestrator.cluster.files.start_commands import HEAD, STARTS, WORKER, check_quotes, check_start_commands
from orchestrator.config.cluster import MACHINE_LABEL, Cluster, NodeGroup
from orchestrator.config.document import Document
from orchestrator.config.prices import PriceTable

PREMISES = "local"
OPTION = r"--{name}[=\s]\s*[\"']?([^\s\"';]+)"


def read_launcher(document: Document, file: Path, prices: PriceTable, faults: Faults) -> Cluster:
    """Return the cluster of a launcher file.

    Raises:
        RecipeError: the file is wrong; all faults are listed with file and line.
    """
    values = document.plain()
    check_schema(values, faults)
    check_provider(values, faults)
    check_quotes(values, faults)
    check_start_commands(values, faults)
    if provider_of(values) != PREMISES:
        check_node_types(values, prices, faults)
    elif TYPES in values:
        faults.add((TYPES,), "machines of your own have no node types; name them in provider.worker_ips")
    if not faults:
        check_as_ray_does(values, faults)
    if faults:
        refuse_all([faults])
    groups = _premises(values, prices) if provider_of(values) == PREMISES else _node_groups(values, prices)
    return Cluster(kind="launcher", name=values["cluster_name"], file=file, groups=groups, settings=values)


def provider_of(values: dict[str, Any]) -> str:
    """Return the type of the provider."""
    return str(mapping(values.get("provider")).get("type"))


def _node_groups(values: dict[str, Any], prices: PriceTable) -> tuple[NodeGroup, ...]:
    provider, head, total = provider_of(values), values["head_node_type"], values["max_workers"]
    groups = [_node_group(provider, name, kind, prices, total, name == head) for name, kind in values[TYPES].items()]
    return tuple(sorted(groups, key=lambda group: not group.head))


def _node_group(
    provider: str, name: str, node_type: dict[str, Any], prices: PriceTable, total: int, head: bool
) -> NodeGroup:
    machine, resources = machine_of(provider, node_type), mapping(node_type.get("resources"))
    known = prices.machines.get(machine or "")
    cpus = resources.get("CPU", known.cpus if known else None)
    return NodeGroup(
        name=name,
        machine=machine,
        market=market_of(provider, node_type),
        fewest=1 if head else node_type.get("min_workers", 0),
        most=1 if head else min(node_type.get("max_workers", total), total),
        cpus=cpus,
        gpus=resources.get("GPU", known.gpus if known else 0),
        head=head,
    )


def _premises(values: dict[str, Any], prices: PriceTable) -> tuple[NodeGroup, ...]:
    provider = values["provider"]
    there = len(provider.get("worker_ips") or []) if "worker_ips" in provider else values.get("max_workers", 0)
    most = min(values.get("max_workers", there), there)
    fewest = min(values.get("min_workers", most), most)
    head = _owned("head", _start_of(values, HEAD), prices, 1, 1, head=True)
    return (head, _owned("workers", _start_of(values, WORKER), prices, fewest, most)) if most else (head,)


def _owned(name: str, start: str, prices: PriceTable, fewest: int, most: int, *, head: bool = False) -> NodeGroup:
    labels = dict(pair.split("=", 1) for pair in (_option(start, "labels") or "").split(",") if "=" in pair)
    machine = labels.get(MACHINE_LABEL)
    known = prices.machines.get(machine or "")
    cpus, gpus = _option(start, "num-cpus"), _option(start, "num-gpus")
    return NodeGroup(
        name=name,
        machine=machine,
        market="owned",
        fewest=fewest,
        most=most,
        cpus=_number(cpus) if cpus else (known.cpus if known else None),
        gpus=(_number(gpus) if gpus else None) or (known.gpus if known and not gpus else 0),
        head=head,
    )


def _start_of(values: dict[str, Any], key: str) -> str:
    return next(str(text) for text in listing(values[key]) if STARTS.search(str(text)))


def _option(command: str, name: str) -> str | None:
    found = re.search(OPTION.format(name=name), command)
    return found[1] if found else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
