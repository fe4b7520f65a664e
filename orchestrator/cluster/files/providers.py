"""Checks of a file for Ray's cluster launcher against what reads it: Ray's schema, its providers, and the clouds' APIs.

Ray's schema allows any key below `provider` and `node_config`, so a misspelt key would be ignored. Nothing here calls a
cloud: AWS's node_config is checked against boto3's service model, Google Cloud's against the fields listed here.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, ServiceModel, Shape, StringShape, StructureShape
from jsonschema import Draft7Validator, ValidationError

from orchestrator.cluster.findings import Faults, list_or_empty, mapping_or_empty
from orchestrator.config.loading import unknown_key
from orchestrator.config.yaml_text import KeyPath

COMMON_KEYS = (
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
REQUIRED_KEYS: dict[str, tuple[str, ...]] = {
    "aws": ("region",),
    "gcp": ("region", "availability_zone", "project_id"),
    "azure": ("location", "resource_group"),
    "external": ("module",),
}
CLOUDS = ("aws", "gcp", "azure")
SECRET_KEYS = ("aws_credentials", "gcp_credentials")
UNCHECKED_PROVIDERS = ("external", "aliyun", "vsphere", "spark")
"""Provider types whose keys are not checked."""

SSH = 22
ANYONE = ("0.0.0.0/0", "::/0")


def check_provider(values: dict[str, Any], faults: Faults) -> None:
    """Add faults for unknown and missing provider keys, secrets in the file, and ports open to the internet."""
    provider = mapping_or_empty(values.get("provider"))
    kind = provider.get("type")
    if kind not in (*PROVIDER_KEYS, *UNCHECKED_PROVIDERS):
        if kind is not None:
            message = unknown_key(str(kind), (*PROVIDER_KEYS, *UNCHECKED_PROVIDERS)).replace(
                "unknown key", "Ray has no provider"
            )
            faults.add(("provider", "type"), message.replace("known keys", "it has"))
        return
    if kind in PROVIDER_KEYS:
        faults.add_unknown_keys(("provider",), provider, (*COMMON_KEYS, *PROVIDER_KEYS[kind]))
    for key in REQUIRED_KEYS.get(kind, ()):
        if not provider.get(key):
            faults.add(("provider", key), f"this key is required for provider {kind}.")
    for key in SECRET_KEYS:
        if key in provider:
            faults.add(("provider", key), "keep secrets out of files; Ray takes the standard credentials of the cloud")
    _check_security_group(provider, faults)
    _check_addresses(provider, faults)


def _check_security_group(provider: dict[str, Any], faults: Faults) -> None:
    rules = mapping_or_empty(provider.get("security_group")).get("IpPermissions") or []
    for index, rule in enumerate(map(mapping_or_empty, rules)):
        sources = [mapping_or_empty(source).get("CidrIp") for source in rule.get("IpRanges") or []]
        sources += [mapping_or_empty(source).get("CidrIpv6") for source in rule.get("Ipv6Ranges") or []]
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
            faults.add(("provider", "worker_ips", index), f"{worker} is listed twice; every machine has one role")


KEYS_OUTSIDE_THE_SCHEMA = ("min_workers",)
"""Ray moves these keys elsewhere before it applies its schema."""


def check_schema(values: dict[str, Any], faults: Faults) -> None:
    """Add a fault for everything that Ray's schema does not allow."""
    on_premises = mapping_or_empty(values.get("provider")).get("type") == "local"
    seen = {key: value for key, value in values.items() if not (on_premises and key in KEYS_OUTSIDE_THE_SCHEMA)}
    for error in Draft7Validator(_schema()).iter_errors(seen):
        _add_schema_error(error, faults)


def check_as_ray_does(values: dict[str, Any], faults: Faults) -> None:
    """Let Ray complete and validate the file, which calls no cloud, and add its error."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            validate_config(prepare_config(json.loads(json.dumps(values))))
    except KeyError as error:
        faults.add((), f"{error.args[0]}: this key is required by Ray for this type of provider.")
    except Exception as error:  # whatever Ray raises is about the file
        faults.add((), f"Ray refuses the file: {str(error) or output.getvalue().strip()}")


@cache
def _schema() -> dict[str, Any]:
    import ray.autoscaler

    text = (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema


def _add_schema_error(error: ValidationError, faults: Faults) -> None:
    key_path: KeyPath = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        faults.add_unknown_keys(key_path, error.instance, error.schema.get("properties", {}))
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                faults.add((*key_path, key), "this key is required.")
    elif error.validator == "type":
        expected = error.validator_value
        expected = expected if isinstance(expected, str) else " or ".join(expected)
        faults.add(key_path, f"must be of type {expected} (got {error.instance!r})")
    elif error.validator == "minimum":
        faults.add(key_path, f"must be at least {error.validator_value} (got {error.instance!r})")
    else:
        faults.add(key_path, error.message)


KEYS_OF_RAY = ("SubnetIds",)
"""Ray accepts this key, too, and picks one of the subnets."""
SET_BY_RAY = ("MinCount", "MaxCount")
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "long": int,
    "boolean": bool,
    "double": (int, float),
    "float": (int, float),
}


def check_run_instances(node_config: Any, faults: Faults, key_path: KeyPath) -> None:
    """Add faults for unknown keys, wrong types and unknown enum values at any depth of a `node_config`."""
    if not isinstance(node_config, dict):
        return
    for key in SET_BY_RAY:
        if key in node_config:
            faults.add((*key_path, key), "Ray sets this itself; use min_workers and max_workers of the node type")
    aws_keys = {key: value for key, value in node_config.items() if key not in (*KEYS_OF_RAY, *SET_BY_RAY)}
    _check_structure(aws_keys, _run_instances(), faults, key_path)


@cache
def _run_instances() -> StructureShape:
    model = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    shape: StructureShape = model.operation_model("RunInstances").input_shape
    return shape


def _check(value: Any, shape: Shape, faults: Faults, key_path: KeyPath) -> None:
    if isinstance(shape, StructureShape):
        _check_structure(value, shape, faults, key_path)
    elif isinstance(shape, ListShape):
        _check_list(value, shape, faults, key_path)
    elif shape.type_name in TYPES:
        _check_scalar(value, shape, faults, key_path)


def _check_structure(value: Any, shape: StructureShape, faults: Faults, key_path: KeyPath) -> None:
    if not isinstance(value, dict):
        faults.add(key_path, f"must be a mapping (got {value!r})")
        return
    faults.add_unknown_keys(key_path, value, shape.members)
    for key, inner in value.items():
        if key in shape.members:
            _check(inner, shape.members[key], faults, (*key_path, key))


def _check_list(value: Any, shape: ListShape, faults: Faults, key_path: KeyPath) -> None:
    if not isinstance(value, list):
        faults.add(key_path, f"must be a list (got {value!r})")
        return
    for index, inner in enumerate(value):
        _check(inner, shape.member, faults, (*key_path, index))


def _check_scalar(value: Any, shape: Shape, faults: Faults, key_path: KeyPath) -> None:
    expected = TYPES[shape.type_name]
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        faults.add(key_path, f"must be of type {shape.type_name} (got {value!r})")
    elif isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        message = (
            unknown_key(str(value), shape.enum)
            .replace("unknown key", "boto3 knows no")
            .replace("known keys", "it knows")
        )
        faults.add(
            key_path, message if len(message) < 200 else f"boto3 knows no {value!r}; if it is new, upgrade boto3"
        )


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
    """Add faults for unknown keys of a `node_config`, of its scheduling and of its disks."""
    node = mapping_or_empty(node_config)
    faults.add_unknown_keys(key_path, node, (*INSTANCE, *TPU))
    if not (node.get("machineType") or node.get("acceleratorType") or node.get("acceleratorConfig")):
        faults.add((*key_path, "machineType"), "this key is required.")
    for part_path, scheduling in scheduling_parts(node):
        faults.add_unknown_keys((*key_path, "scheduling", *part_path), scheduling, SCHEDULING)
    for index, disk in enumerate(map(mapping_or_empty, list_or_empty(node.get("disks")))):
        faults.add_unknown_keys((*key_path, "disks", index), disk, DISK)
        parameters = disk.get("initializeParams")
        faults.add_unknown_keys((*key_path, "disks", index, "initializeParams"), parameters, INITIALIZE)


def scheduling_parts(node: dict[str, Any]) -> list[tuple[KeyPath, dict[str, Any]]]:
    """Return the mappings in `scheduling`, each with its key path below it; Ray takes one mapping or a list."""
    scheduling = node.get("scheduling")
    if isinstance(scheduling, list):
        return [((index,), mapping_or_empty(part)) for index, part in enumerate(scheduling)]
    return [((), mapping_or_empty(scheduling))]
