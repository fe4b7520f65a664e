"""The keys that Ray's providers know; its schema lets any pass."""

from __future__ import annotations

from typing import Any

from orchestrator.cluster.files.faults import Faults, mapping
from orchestrator.config.loading import unknown_key

EVERYWHERE = (
    "type",
    "use_internal_ips",
    "use_external_head_ip",
    "disable_node_updaters",
    "disable_launch_config_check",
)

PROVIDER_KEYS: dict[str, tuple[str, ...]] = {
    "aws": (
        "region",
        "availability_zone",
        "cache_stopped_nodes",
        "key_pair",
        "security_group",
        "aws_credentials",
        "cloudwatch",
    ),
    "gcp": ("region", "availability_zone", "project_id", "cache_stopped_nodes", "gcp_credentials"),
    "azure": (
        "location",
        "resource_group",
        "subscription_id",
        "tags",
        "availability_zone",
        "cache_stopped_nodes",
        "msi",
        "msi_name",
        "msi_resource_group",
        "msi_identity_id",
        "msi_identity_principal_id",
        "nsg",
        "subnet",
        "subnet_id",
        "subnet_mask",
        "unique_id",
    ),
    "local": ("head_ip", "worker_ips", "external_head_ip", "coordinator_address"),
}
NEEDED: dict[str, tuple[str, ...]] = {
    "aws": ("region",),
    "gcp": ("region", "availability_zone", "project_id"),
    "azure": ("location", "resource_group"),
    "external": ("module",),
}
CLOUDS = ("aws", "gcp", "azure")
SECRETS = ("aws_credentials", "gcp_credentials")
OTHERS = ("external", "aliyun", "vsphere", "spark")
"""Types whose keys only they themselves know."""

SSH = 22
ANYONE = ("0.0.0.0/0", "::/0")


def check_provider(values: dict[str, Any], faults: Faults) -> None:
    """Note unknown and missing keys of the provider, secrets in the file, and doors that are open to anyone."""
    provider = mapping(values.get("provider"))
    kind = provider.get("type")
    if kind not in (*PROVIDER_KEYS, *OTHERS):
        if kind is not None:
            said = unknown_key(str(kind), (*PROVIDER_KEYS, *OTHERS)).replace("unknown key", "Ray has no provider")
            faults.add(("provider", "type"), said.replace("known keys", "it has"))
        return
    if kind in PROVIDER_KEYS:
        faults.refuse_unknown(("provider",), provider, (*EVERYWHERE, *PROVIDER_KEYS[kind]))
    for key in NEEDED.get(kind, ()):
        if not provider.get(key):
            faults.add(("provider", key), f"this key is required for provider {kind}.")
    for key in SECRETS:
        if key in provider:
            faults.add(("provider", key), "keep secrets out of files; Ray takes the standard credentials of the cloud")
    _check_security_group(provider, faults)
    _check_addresses(provider, faults)


def _check_security_group(provider: dict[str, Any], faults: Faults) -> None:
    rules = mapping(provider.get("security_group")).get("IpPermissions") or []
    for index, rule in enumerate(map(mapping, rules)):
        sources = [mapping(source).get("CidrIp") for source in rule.get("IpRanges") or []]
        sources += [mapping(source).get("CidrIpv6") for source in rule.get("Ipv6Ranges") or []]
        if any(source in ANYONE for source in sources) and not rule.get("FromPort") == rule.get("ToPort") == SSH:
            faults.add(
                ("provider", "security_group", "IpPermissions", index),
                "opens more than SSH (port 22) to the whole internet; name the addresses that may come in",
            )


def _check_addresses(provider: dict[str, Any], faults: Faults) -> None:
    if provider.get("type") != "local" or "coordinator_address" in provider:
        return
    head, workers = provider.get("head_ip"), provider.get("worker_ips")
    if not head:
        faults.add(("provider", "head_ip"), "this key is required: the address of the machine that Ray's head is on.")
    if not isinstance(workers, list):
        faults.add(("provider", "worker_ips"), "this key is required: a list of addresses; [] for the head alone.")
        return
    for index, worker in enumerate(workers):
        if worker == head or worker in workers[:index]:
            faults.add(("provider", "worker_ips", index), f"{worker} is named twice; every machine has one role")
