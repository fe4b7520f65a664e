"""What has to hold for the node types of a launcher file, beyond Ray's schema."""

from __future__ import annotations

from typing import Any

from orchestrator.cluster.files.aws import check_run_instances
from orchestrator.cluster.files.faults import Faults, mapping
from orchestrator.cluster.files.gcp import check_instance
from orchestrator.cluster.files.node_types import asked_machine, asked_market, labels_of, market_of
from orchestrator.cluster.files.providers import CLOUDS
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL
from orchestrator.config.document import KeyPath
from orchestrator.config.loading import unknown_key
from orchestrator.config.prices import PriceTable

TYPES = "available_node_types"
SPOT_HEAD = (
    "the head must not be a spot machine: with it go the cluster, the drivers of all runs and their job records. "
    "Make it on-demand; a small one is enough"
)


def check_node_types(values: dict[str, Any], prices: PriceTable, faults: Faults) -> None:
    """Note impossible numbers, unknown settings, and labels or resources that contradict the machine."""
    provider = str(mapping(values.get("provider")).get("type"))
    types = mapping(values.get(TYPES))
    if not types:
        faults.add((TYPES,), "this key is required; without it Ray takes node types of its own choice.")
        return
    _check_head(values, provider, types, faults)
    _check_total(values, types, faults)
    for name, node_type in types.items():
        key_path = (TYPES, name)
        if provider == "aws":
            check_run_instances(mapping(node_type).get("node_config"), faults, (*key_path, "node_config"))
        elif provider == "gcp":
            check_instance(mapping(node_type).get("node_config"), faults, (*key_path, "node_config"))
        _check_bounds(mapping(node_type), faults, key_path)
        if provider in CLOUDS:
            _check_labels(provider, mapping(node_type), faults, key_path)
            _check_resources(provider, mapping(node_type), prices, faults, key_path)


def _check_head(values: dict[str, Any], provider: str, types: dict[str, Any], faults: Faults) -> None:
    head = values.get("head_node_type")
    if head is None:
        faults.add(("head_node_type",), f"this key is required: one of {', '.join(types)}.")
    elif head not in types:
        said = unknown_key(str(head), types).replace("unknown key", f"{TYPES} has no")
        faults.add(("head_node_type",), said.replace("known keys", "it has"))
    elif market_of(provider, mapping(types[head])) == "spot":
        faults.add((TYPES, head, "node_config"), SPOT_HEAD)


def _check_total(values: dict[str, Any], types: dict[str, Any], faults: Faults) -> None:
    total = values.get("max_workers")
    if total is None:
        faults.add(("max_workers",), "this key is required; without it Ray stops at 2 machines beside the head.")
        return
    counts = [mapping(node_type).get("min_workers", 0) for node_type in types.values()]
    fewest = sum(count for count in counts if isinstance(count, int))
    if isinstance(total, int) and total < fewest:
        faults.add(("max_workers",), f"is {total}, but the node types' min_workers add up to {fewest}; raise it")


def _check_bounds(node_type: dict[str, Any], faults: Faults, key_path: KeyPath) -> None:
    fewest, most = node_type.get("min_workers", 0), node_type.get("max_workers")
    if isinstance(fewest, int) and isinstance(most, int) and fewest > most:
        faults.add((*key_path, "min_workers"), f"is {fewest}, more than max_workers ({most})")
    if isinstance(fewest, int) and fewest < 0:
        faults.add((*key_path, "min_workers"), "must be at least 0")


def _check_labels(provider: str, node_type: dict[str, Any], faults: Faults, key_path: KeyPath) -> None:
    node_config, labels = mapping(node_type.get("node_config")), labels_of(node_type)
    truth = {
        MACHINE_LABEL: asked_machine(provider, node_config),
        MARKET_LABEL: asked_market(provider, node_config),
    }
    for label, asked in truth.items():
        said = labels.get(label)
        if said is None:
            value = asked or "TYPE"
            faults.add((*key_path, "labels"), f"add `{label}: {value}`, or nobody can tell what the node costs")
        elif asked is not None and said != asked:
            faults.add((*key_path, "labels", label), f"says {said}, but the node_config asks for {asked}")


def _check_resources(
    provider: str, node_type: dict[str, Any], prices: PriceTable, faults: Faults, key_path: KeyPath
) -> None:
    resources = mapping(node_type.get("resources"))
    machine = prices.machines.get(asked_machine(provider, mapping(node_type.get("node_config"))) or "")
    if provider != "aws" and not resources:
        faults.add((*key_path, "resources"), "say how many CPUs (and GPUs) it has; Ray finds that out on AWS alone")
    if machine is None:
        return
    for resource, there in (("CPU", machine.cpus), ("GPU", machine.gpus)):
        wanted = resources.get(resource)
        if isinstance(wanted, int) and wanted > there:
            faults.add((*key_path, "resources", resource), f"is {wanted}, but a {machine.name} has {there}")
    if resources and machine.gpus and "GPU" not in resources and provider != "aws":
        faults.add(
            (*key_path, "resources"), f"add `GPU: {machine.gpus}`: Ray would not use those of the {machine.name}"
        )
