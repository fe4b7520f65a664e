"""Reads and checks a file for Ray's cluster launcher (`ray up`): its node types, its start commands, its node groups.

`providers` has the checks against Ray's schema and the clouds' APIs. Checked here is what they let pass: labels and
resources that contradict the machine, and commands that start Ray without a token, open to others, or outside the
cluster.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from orchestrator.cluster.files.providers import (
    CLOUDS,
    check_as_ray_does,
    check_instance,
    check_provider,
    check_run_instances,
    check_schema,
    scheduling_parts,
)
from orchestrator.cluster.findings import Faults, list_or_empty, mapping_or_empty, raise_faults
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Cluster, Market, NodeGroup
from orchestrator.config.document import Document
from orchestrator.config.loading import unknown_key
from orchestrator.config.prices import PriceTable
from orchestrator.config.yaml_text import KeyPath

ON_PREMISES = "local"
OPTION = r"--{name}[=\s]\s*[\"']?([^\s\"';]+)"


def read_launcher(document: Document, file: Path, prices: PriceTable, faults: Faults) -> Cluster:
    """Return the cluster of a launcher file.

    Args:
        document: the file's YAML document.
        file: the file's path.
        prices: known machine types with their CPUs and GPUs.
        faults: the faults collected so far.

    Raises:
        RecipeError: the file has faults; all of them are listed with file and line.
    """
    values = document.to_dict()
    check_schema(values, faults)
    check_provider(values, faults)
    check_quotes(values, faults)
    check_start_commands(values, faults)
    if provider_of(values) != ON_PREMISES:
        check_node_types(values, prices, faults)
    elif TYPES in values:
        faults.add((TYPES,), "your own machines have no node types; list them in provider.worker_ips")
    if not faults:
        check_as_ray_does(values, faults)
    if faults:
        raise_faults([faults])
    groups = _on_premises_groups(values, prices) if provider_of(values) == ON_PREMISES else _node_groups(values, prices)
    return Cluster(kind="launcher", name=values["cluster_name"], file=file, groups=groups, settings=values)


def provider_of(values: dict[str, Any]) -> str:
    """Return the type of the provider."""
    return str(mapping_or_empty(values.get("provider")).get("type"))


def _node_groups(values: dict[str, Any], prices: PriceTable) -> tuple[NodeGroup, ...]:
    provider, head, total = provider_of(values), values["head_node_type"], values["max_workers"]
    groups = [_node_group(provider, name, kind, prices, total, name == head) for name, kind in values[TYPES].items()]
    return tuple(sorted(groups, key=lambda group: not group.head))


def _node_group(
    provider: str, name: str, node_type: dict[str, Any], prices: PriceTable, total: int, head: bool
) -> NodeGroup:
    machine, resources = node_type_machine(provider, node_type), mapping_or_empty(node_type.get("resources"))
    known = prices.machines.get(machine or "")
    cpus = resources.get("CPU", known.cpus if known else None)
    return NodeGroup(
        name=name,
        machine=machine,
        market=node_type_market(provider, node_type),
        fewest=1 if head else node_type.get("min_workers", 0),
        most=1 if head else min(node_type.get("max_workers", total), total),
        cpus=cpus,
        gpus=resources.get("GPU", known.gpus if known else 0),
        head=head,
    )


def _on_premises_groups(values: dict[str, Any], prices: PriceTable) -> tuple[NodeGroup, ...]:
    provider = values["provider"]
    listed = len(provider.get("worker_ips") or []) if "worker_ips" in provider else values.get("max_workers", 0)
    most = min(values.get("max_workers", listed), listed)
    fewest = min(values.get("min_workers", most), most)
    head = _owned_group("head", _start_of(values, HEAD), prices, 1, 1, head=True)
    return (head, _owned_group("workers", _start_of(values, WORKER), prices, fewest, most)) if most else (head,)


def _owned_group(name: str, start: str, prices: PriceTable, fewest: int, most: int, *, head: bool = False) -> NodeGroup:
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
    return next(str(text) for text in list_or_empty(values[key]) if RAY_START.search(str(text)))


def _option(command: str, name: str) -> str | None:
    match = re.search(OPTION.format(name=name), command)
    return match[1] if match else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def node_type_machine(provider: str, node_type: dict[str, Any]) -> str | None:
    """Return the machine type: the one requested from the cloud, else the one in the label."""
    return requested_machine(provider, mapping_or_empty(node_type.get("node_config"))) or labels_of(node_type).get(
        MACHINE_LABEL
    )


def node_type_market(provider: str, node_type: dict[str, Any]) -> Market:
    """Return how the machine is paid for: as requested from the cloud, else as in the label."""
    requested = requested_market(provider, mapping_or_empty(node_type.get("node_config")))
    labelled = labels_of(node_type).get(MARKET_LABEL)
    if requested is not None:
        return requested
    if labelled in ("spot", "on-demand"):
        return "spot" if labelled == "spot" else "on-demand"
    return "owned"


def requested_machine(provider: str, node_config: dict[str, Any]) -> str | None:
    """Return the machine type that the node_config requests; None when it names none."""
    if provider == "aws":
        machine = node_config.get("InstanceType")
    elif provider == "gcp":
        machine = str(node_config.get("machineType") or "").rpartition("/")[2]
    elif provider == "azure":
        machine = mapping_or_empty(node_config.get("azure_arm_parameters")).get("vmSize")
    else:
        machine = None
    return str(machine) if machine else None


def requested_market(provider: str, node_config: dict[str, Any]) -> Market | None:
    """Return the market that the node_config requests; None for a provider whose keys for it are not known."""
    if provider == "aws":
        spot = mapping_or_empty(node_config.get("InstanceMarketOptions")).get("MarketType") == "spot"
    elif provider == "gcp":
        parts = [part for _, part in scheduling_parts(node_config)]
        spot = any(part.get("preemptible") is True or part.get("provisioningModel") == "SPOT" for part in parts)
    elif provider == "azure":
        spot = mapping_or_empty(node_config.get("azure_arm_parameters")).get("priority") == "Spot"
    else:
        return None
    return "spot" if spot else "on-demand"


def labels_of(node_type: dict[str, Any]) -> dict[str, Any]:
    """Return the labels that Ray gives the node."""
    return mapping_or_empty(node_type.get("labels"))


TYPES = "available_node_types"
SPOT_HEAD = (
    "the head must not be a spot machine: the cluster, the drivers of all runs and their job records end with it. "
    "Make it on-demand; a small one is enough"
)


def check_node_types(values: dict[str, Any], prices: PriceTable, faults: Faults) -> None:
    """Add faults for impossible numbers, unknown keys, and labels or resources that contradict the machine."""
    provider = str(mapping_or_empty(values.get("provider")).get("type"))
    types = mapping_or_empty(values.get(TYPES))
    if not types:
        faults.add((TYPES,), "this key is required; without it Ray uses its own default node types.")
        return
    _check_head(values, provider, types, faults)
    _check_total(values, types, faults)
    for name, node_type in types.items():
        key_path = (TYPES, name)
        if provider == "aws":
            check_run_instances(mapping_or_empty(node_type).get("node_config"), faults, (*key_path, "node_config"))
        elif provider == "gcp":
            check_instance(mapping_or_empty(node_type).get("node_config"), faults, (*key_path, "node_config"))
        _check_bounds(mapping_or_empty(node_type), faults, key_path)
        if provider in CLOUDS:
            _check_labels(provider, mapping_or_empty(node_type), faults, key_path)
            _check_resources(provider, mapping_or_empty(node_type), prices, faults, key_path)


def _check_head(values: dict[str, Any], provider: str, types: dict[str, Any], faults: Faults) -> None:
    head = values.get("head_node_type")
    if head is None:
        faults.add(("head_node_type",), f"this key is required: one of {', '.join(types)}.")
    elif head not in types:
        message = unknown_key(str(head), types).replace("unknown key", f"{TYPES} has no")
        faults.add(("head_node_type",), message.replace("known keys", "it has"))
    elif node_type_market(provider, mapping_or_empty(types[head])) == "spot":
        faults.add((TYPES, head, "node_config"), SPOT_HEAD)


def _check_total(values: dict[str, Any], types: dict[str, Any], faults: Faults) -> None:
    total = values.get("max_workers")
    if total is None:
        faults.add(("max_workers",), "this key is required; without it Ray starts at most 2 workers.")
        return
    counts = [mapping_or_empty(node_type).get("min_workers", 0) for node_type in types.values()]
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
    node_config, labels = mapping_or_empty(node_type.get("node_config")), labels_of(node_type)
    expected = {
        MACHINE_LABEL: requested_machine(provider, node_config),
        MARKET_LABEL: requested_market(provider, node_config),
    }
    for label, requested in expected.items():
        labelled = labels.get(label)
        if labelled is None:
            value = requested or "TYPE"
            faults.add((*key_path, "labels"), f"add `{label}: {value}`, or the cost of the node is not known")
        elif requested is not None and labelled != requested:
            faults.add((*key_path, "labels", label), f"says {labelled}, but the node_config asks for {requested}")


def _check_resources(
    provider: str, node_type: dict[str, Any], prices: PriceTable, faults: Faults, key_path: KeyPath
) -> None:
    resources = mapping_or_empty(node_type.get("resources"))
    machine = prices.machines.get(requested_machine(provider, mapping_or_empty(node_type.get("node_config"))) or "")
    if provider != "aws" and not resources:
        faults.add((*key_path, "resources"), "set its CPUs (and GPUs); Ray only detects them on AWS")
    if machine is None:
        return
    for resource, available in (("CPU", machine.cpus), ("GPU", machine.gpus)):
        declared = resources.get(resource)
        if isinstance(declared, int) and declared > available:
            faults.add((*key_path, "resources", resource), f"is {declared}, but a {machine.name} has {available}")
    if resources and machine.gpus and "GPU" not in resources and provider != "aws":
        faults.add(
            (*key_path, "resources"), f"add `GPU: {machine.gpus}`: Ray would not use those of the {machine.name}"
        )


HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
RAY_START = re.compile(r"\bray\s+start\b")
AUTH_MODE = re.compile(r"\bRAY_AUTH_MODE=[\"']?(\w*)")
MODE_REACHES_RAY = re.compile(
    r"\bexport\b[^;&|\n]*\bRAY_AUTH_MODE=|\bset -a\b.*\bRAY_AUTH_MODE=|\bRAY_AUTH_MODE=[^;&|\n]*$", re.DOTALL
)
"""The variable reaches `ray start`: it is exported, set under `set -a`, or written in front of the command."""
DASHBOARD_HOST = re.compile(r"--dashboard-host[=\s]\s*[\"']?([^\s\"';]+)")
TOKEN_IN_COMMAND = re.compile(r"\bRAY_AUTH_TOKEN=(?!\$)")
ADD_MODE = "put `export RAY_AUTH_MODE=token;` before `ray start` in the same command"


def check_quotes(values: dict[str, Any], faults: Faults) -> None:
    """Add a fault for commands that end inside a quote, such as one that YAML cut off at a ` #`."""
    for key, commands in values.items():
        for index, command in enumerate(list_or_empty(commands) if key.endswith("_commands") else []):
            try:
                shlex.split(str(command))
            except ValueError:
                message = "ends inside a quote; YAML takes ` #` for a comment unless the command is a block (`- >-`)"
                faults.add((key, index), message)


def check_start_commands(values: dict[str, Any], faults: Faults) -> None:
    """Add faults for start commands that are missing, open to others, or start Ray without token authentication."""
    for key in (HEAD, WORKER):
        commands = list_or_empty(values.get(key))
        starts = [(index, text) for index, text in enumerate(commands) if RAY_START.search(str(text))]
        if not starts:
            faults.add(
                (key,), "must contain a `ray start`; Ray's default commands set neither a token nor the loopback"
            )
        for index, text in starts:
            if not _sets_token_mode(RAY_START.split(str(text))[0]):
                faults.add((key, index), f"starts Ray open to anyone who reaches the machine; {ADD_MODE}")
    _check_head_command(values, faults)
    _check_token(values, faults)


def _sets_token_mode(before: str) -> bool:
    return AUTH_MODE.findall(before)[-1:] == ["token"] and MODE_REACHES_RAY.search(before) is not None


def _check_head_command(values: dict[str, Any], faults: Faults) -> None:
    for index, command in enumerate(list_or_empty(values.get(HEAD))):
        text = str(command)
        for host in DASHBOARD_HOST.findall(text):
            if host not in LOOPBACK_HOSTS:
                faults.add(
                    (HEAD, index),
                    f"the dashboard accepts jobs and must not listen on {host}: write --dashboard-host=127.0.0.1, and "
                    "open it with `fuseray dashboard CLUSTER`",
                )
        if RAY_START.search(text) and "--autoscaling-config" not in text:
            faults.add(
                (HEAD, index),
                "add `--autoscaling-config=~/ray_bootstrap_config.yaml` to `ray start`, or no worker is ever started",
            )


def _check_token(values: dict[str, Any], faults: Faults) -> None:
    commands = [
        (key, index, str(text)) for key in (HEAD, WORKER) for index, text in enumerate(list_or_empty(values.get(key)))
    ]
    for key, index, text in commands:
        if TOKEN_IN_COMMAND.search(text):
            faults.add((key, index), f"contains the token itself; mount it as a file: `{TOKEN_FILE}: {TOKEN_FILE}`")
    mounted = mapping_or_empty(values.get("file_mounts"))
    if not any(str(path) == TOKEN_FILE or str(path).endswith(TOKEN_FILE.removeprefix("~")) for path in mounted):
        faults.add(
            ("file_mounts",),
            f"no machine gets the cluster's token; add `{TOKEN_FILE}: {TOKEN_FILE}` under file_mounts "
            "(`fuseray up CLUSTER` makes the file)",
        )
