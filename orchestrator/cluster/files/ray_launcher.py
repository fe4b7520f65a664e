"""A file for Ray's cluster launcher (`ray up`)."""

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
from orchestrator.cluster.findings import Faults, listing, mapping, refuse_all
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Cluster, Market, NodeGroup
from orchestrator.config.document import Document, KeyPath
from orchestrator.config.loading import unknown_key
from orchestrator.config.prices import PriceTable

PREMISES = "local"
OPTION = r"--{name}[=\s]\s*[\"']?([^\s\"';]+)"


def read_launcher(document: Document, file: Path, prices: PriceTable, faults: Faults) -> Cluster:
    """Return the cluster of a launcher file.

    Raises:
        RecipeError: the file is wrong; all faults are listed with file and line.
    """
    values = document.to_dict()
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


# What a node type of a launcher file says about its machines, in each cloud's words.


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


# What has to hold for the node types of a launcher file, beyond Ray's schema.


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


# The commands of a launcher file that start Ray: with a token, on loopback, and as part of the cluster.


HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STARTS = re.compile(r"\bray\s+start\b")
AUTH_MODE = re.compile(r"\bRAY_AUTH_MODE=[\"']?(\w*)")
HANDED_ON = re.compile(
    r"\bexport\b[^;&|\n]*\bRAY_AUTH_MODE=|\bset -a\b.*\bRAY_AUTH_MODE=|\bRAY_AUTH_MODE=[^;&|\n]*$", re.DOTALL
)
"""The variable reaches `ray start`: exported, set while all are exported, or written in front of it."""
DASHBOARD_HOST = re.compile(r"--dashboard-host[=\s]\s*[\"']?([^\s\"';]+)")
TOKEN_IN_COMMAND = re.compile(r"\bRAY_AUTH_TOKEN=(?!\$)")
ADD_MODE = "put `export RAY_AUTH_MODE=token;` before `ray start` in the same command"


def check_quotes(values: dict[str, Any], faults: Faults) -> None:
    """Note commands that end inside a quote, as one does that YAML cut off at a ` #`."""
    for key, commands in values.items():
        for index, command in enumerate(listing(commands) if key.endswith("_commands") else []):
            try:
                shlex.split(str(command))
            except ValueError:
                said = "ends inside a quote; YAML takes ` #` for a comment unless the command is a block (`- >-`)"
                faults.add((key, index), said)


def check_start_commands(values: dict[str, Any], faults: Faults) -> None:
    """Note start commands that are missing, open to anyone, or start a Ray that does not ask for the token."""
    for key in (HEAD, WORKER):
        commands = listing(values.get(key))
        starts = [(index, text) for index, text in enumerate(commands) if STARTS.search(str(text))]
        if not starts:
            faults.add((key,), "must hold a `ray start`; Ray's own commands know neither token nor loopback")
        for index, text in starts:
            if not _asks_for_token(STARTS.split(str(text))[0]):
                faults.add((key, index), f"starts Ray open to anyone who reaches the machine; {ADD_MODE}")
    _check_head_command(values, faults)
    _check_token(values, faults)


def _asks_for_token(before: str) -> bool:
    return AUTH_MODE.findall(before)[-1:] == ["token"] and HANDED_ON.search(before) is not None


def _check_head_command(values: dict[str, Any], faults: Faults) -> None:
    for index, command in enumerate(listing(values.get(HEAD))):
        text = str(command)
        for host in DASHBOARD_HOST.findall(text):
            if host not in LOOPBACK:
                faults.add(
                    (HEAD, index),
                    f"the dashboard takes jobs and must not listen on {host}: write --dashboard-host=127.0.0.1, and "
                    "reach it by `fuseray dashboard`",
                )
        if STARTS.search(text) and "--autoscaling-config" not in text:
            faults.add(
                (HEAD, index),
                "add `--autoscaling-config=~/ray_bootstrap_config.yaml` to `ray start`, or no worker is ever started",
            )


def _check_token(values: dict[str, Any], faults: Faults) -> None:
    commands = [
        (key, index, str(text)) for key in (HEAD, WORKER) for index, text in enumerate(listing(values.get(key)))
    ]
    for key, index, text in commands:
        if TOKEN_IN_COMMAND.search(text):
            faults.add((key, index), f"holds the token itself; bring it as a file: `{TOKEN_FILE}: {TOKEN_FILE}`")
    mounted = mapping(values.get("file_mounts"))
    if not any(str(path) == TOKEN_FILE or str(path).endswith(TOKEN_FILE.removeprefix("~")) for path in mounted):
        faults.add(
            ("file_mounts",),
            f"no machine gets the cluster's token; add `{TOKEN_FILE}: {TOKEN_FILE}` under file_mounts "
            "(`fuseray up` makes the file)",
        )
