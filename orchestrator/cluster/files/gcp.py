"""A node's configuration on Google Cloud: the fields of the call instances.insert that Ray passes on."""

from __future__ import annotations

from typing import Any

from orchestrator.cluster.files.faults import Faults, listing, mapping
from orchestrator.config.document import KeyPath

INSTANCE = (
    "advancedMachineFeatures",
    "canIpForward",
    "confidentialInstanceConfig",
    "deletionProtection",
    "description",
    "disks",
    "displayDevice",
    "guestAccelerators",
    "hostname",
    "keyRevocationActionType",
    "labels",
    "machineType",
    "metadata",
    "minCpuPlatform",
    "networkInterfaces",
    "networkPerformanceConfig",
    "params",
    "privateIpv6GoogleAccess",
    "reservationAffinity",
    "resourcePolicies",
    "scheduling",
    "serviceAccounts",
    "shieldedInstanceConfig",
    "sourceInstanceTemplate",
    "sourceMachineImage",
    "tags",
)
TPU = ("acceleratorConfig", "acceleratorType", "networkConfig", "runtimeVersion", "schedulingConfig")
SCHEDULING = (
    "automaticRestart",
    "availabilityDomain",
    "hostErrorTimeoutSeconds",
    "instanceTerminationAction",
    "localSsdRecoveryTimeout",
    "locationHint",
    "maxRunDuration",
    "minNodeCpus",
    "nodeAffinities",
    "onHostMaintenance",
    "onInstanceStopAction",
    "preemptible",
    "provisioningModel",
    "terminationTime",
)
DISK = (
    "architecture",
    "autoDelete",
    "boot",
    "deviceName",
    "diskEncryptionKey",
    "diskSizeGb",
    "forceAttach",
    "guestOsFeatures",
    "index",
    "initializeParams",
    "interface",
    "kind",
    "licenses",
    "mode",
    "source",
    "type",
)
INITIALIZE = (
    "architecture",
    "description",
    "diskName",
    "diskSizeGb",
    "diskType",
    "enableConfidentialCompute",
    "labels",
    "onUpdateAction",
    "provisionedIops",
    "provisionedThroughput",
    "replicaZones",
    "resourceManagerTags",
    "resourcePolicies",
    "sourceImage",
    "sourceImageEncryptionKey",
    "sourceSnapshot",
    "storagePool",
)


def check_instance(node_config: Any, faults: Faults, key_path: KeyPath) -> None:
    """Note unknown keys of a `node_config`, of its scheduling and of its disks."""
    node = mapping(node_config)
    faults.refuse_unknown(key_path, node, (*INSTANCE, *TPU))
    if not (node.get("machineType") or node.get("acceleratorType") or node.get("acceleratorConfig")):
        faults.add((*key_path, "machineType"), "this key is required.")
    for place, scheduling in scheduling_parts(node):
        faults.refuse_unknown((*key_path, "scheduling", *place), scheduling, SCHEDULING)
    for index, disk in enumerate(map(mapping, listing(node.get("disks")))):
        faults.refuse_unknown((*key_path, "disks", index), disk, DISK)
        parameters = disk.get("initializeParams")
        faults.refuse_unknown((*key_path, "disks", index, "initializeParams"), parameters, INITIALIZE)


def scheduling_parts(node: dict[str, Any]) -> list[tuple[KeyPath, dict[str, Any]]]:
    """Return the parts of `scheduling` and where they stand under it; Ray takes a mapping or a list of them."""
    scheduling = node.get("scheduling")
    if isinstance(scheduling, list):
        return [((index,), mapping(part)) for index, part in enumerate(scheduling)]
    return [((), mapping(scheduling))]
