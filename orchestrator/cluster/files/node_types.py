"""What a node type of a launcher file says about its machines, in each cloud's words."""

from __future__ import annotations

from typing import Any

from orchestrator.cluster.files.faults import mapping
from orchestrator.cluster.files.gcp import scheduling_parts
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Market


def machine_of(provider: str, node_type: dict[str, Any]) -> str | None:
    """Return the machine's type: what the cloud is asked for, else what the label says."""
    return asked_machine(provider, mapping(node_type.get("node_config"))) or labels_of(node_type).get(MACHINE_LABEL)


def market_of(provider: str, node_type: dict[str, Any]) -> Market:
    """Return how the machine is paid for: what the cloud is asked for, else what the label says."""
    asked = asked_market(provider, mapping(node_type.get("node_config")))
    labelled = labels_of(node_type).get(MARKET_LABEL)
    if asked is not None:
        return asked
    if labelled in ("spot", "on-demand"):
        return "spot" if labelled == "spot" else "on-demand"
    return "owned"


def asked_machine(provider: str, node_config: dict[str, Any]) -> str | None:
    """Return the type of machine that the cloud is asked for; None when another place says it."""
    if provider == "aws":
        found = node_config.get("InstanceType")
    elif provider == "gcp":
        found = str(node_config.get("machineType") or "").rpartition("/")[2]
    elif provider == "azure":
        found = mapping(node_config.get("azure_arm_parameters")).get("vmSize")
    else:
        found = None
    return str(found) if found else None


def asked_market(provider: str, node_config: dict[str, Any]) -> Market | None:
    """Return how the cloud is asked to sell; None for a provider that we cannot tell this of."""
    if provider == "aws":
        spot = mapping(node_config.get("InstanceMarketOptions")).get("MarketType") == "spot"
    elif provider == "gcp":
        parts = [part for _, part in scheduling_parts(node_config)]
        spot = any(part.get("preemptible") is True or part.get("provisioningModel") == "SPOT" for part in parts)
    elif provider == "azure":
        spot = mapping(node_config.get("azure_arm_parameters")).get("priority") == "Spot"
    else:
        return None
    return "spot" if spot else "on-demand"


def labels_of(node_type: dict[str, Any]) -> dict[str, Any]:
    """Return the labels that Ray gives the node."""
    return mapping(node_type.get("labels"))
