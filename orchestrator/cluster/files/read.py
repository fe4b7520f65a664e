"""Reads a cluster file of any kind: for this machine, for Ray's cluster launcher, or Kubernetes manifests.

Ray and Kubernetes read YAML 1.1, in which an unquoted `no`, `on` or `0644` is not text and `12:30` is a number. Values
that YAML 1.1 and 1.2 read differently are faults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from orchestrator.cluster.files.kuberay import is_manifest, read_kuberay
from orchestrator.cluster.files.ray_launcher import read_launcher
from orchestrator.cluster.findings import Faults
from orchestrator.config.cluster import Cluster, NodeGroup
from orchestrator.config.document import Document, read_text
from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.loading import validate
from orchestrator.config.prices import PriceTable, read_prices
from orchestrator.config.yaml_text import KeyPath, variables_in
from workloads.contract import Section

KINDS = (
    "It takes a file for this machine (provider: {type: this-machine}), a file for Ray's cluster launcher (provider: "
    "{type: aws}, for example) or manifests with a RayCluster or RayJob; `fuseray clusters` lists some of "
    "each to start from."
)


def read_cluster(path: Path, prices: PriceTable | None = None) -> Cluster:
    """Read and check a cluster file. Nothing is started, and no cloud is called.

    Args:
        path: the file.
        prices: known machine types with their prices; None reads the default table.

    Raises:
        ConfigError: the file cannot be read or is not a cluster file.
        RecipeError: it has faults; all of them are listed with file and line.
    """
    text, file = read_text(path), path.resolve()
    documents = Document.parse_all(text, str(path))
    if not documents:
        raise ConfigError(f"{path}: is empty. {KINDS}")
    if any(is_manifest(document) for document in documents):
        return read_kuberay(documents, file, _ambiguities(documents, text, str(path)))
    if len(documents) > 1:
        raise ConfigError(f"{path}: holds {len(documents)} documents, and none is a Kubernetes manifest. {KINDS}")
    document = documents[0]
    provider = document.to_dict().get("provider")
    if not isinstance(provider, dict) or "type" not in provider:
        raise ConfigError(f"{document.location(('provider',))}: provider.type: this key is required. {KINDS}")
    if provider["type"] == THIS_MACHINE:
        return read_local(document, file)
    faults = _ambiguities(documents, text, str(path))[0]
    add_variables(document.to_dict(), faults)
    return read_launcher(document, file, prices or read_prices(), faults)


def _ambiguities(documents: list[Document], text: str, origin: str) -> list[Faults]:
    faults = [Faults(document) for document in documents]
    for document, yaml_1_1, document_faults in zip(documents, parse_yaml_1_1(text, origin), faults, strict=True):
        add_ambiguous_values(document.to_dict(), yaml_1_1, document_faults)
    return faults


def parse_yaml_1_1(text: str, origin: str) -> list[Any]:
    """Return the documents of a text as YAML 1.1 reads them, without empty ones.

    Raises:
        ConfigError: the text is not YAML 1.1.
    """
    try:
        return [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: Ray and Kubernetes cannot read this, which is not YAML 1.1: {error}") from error


def add_ambiguous_values(value: Any, value_1_1: Any, faults: Faults, key_path: KeyPath = ()) -> None:
    """Add a fault for every value that the two versions of YAML read differently.

    Args:
        value: a document, or a part of it, as YAML 1.2 reads it.
        value_1_1: the same as YAML 1.1 reads it.
        faults: the document's.
        key_path: of the part.
    """
    if isinstance(value, dict) and isinstance(value_1_1, dict):
        by_text = {str(key): item for key, item in value_1_1.items()}
        for key, item in value.items():
            add_ambiguous_values(item, by_text.get(key), faults, (*key_path, key))
    elif isinstance(value, list) and isinstance(value_1_1, list):
        for index, (item, item_1_1) in enumerate(zip(value, value_1_1, strict=True)):
            add_ambiguous_values(item, item_1_1, faults, (*key_path, index))
    elif value != value_1_1 and str(value_1_1) != str(value):
        faults.add(
            key_path, f"is read as {value_1_1!r} by Ray and Kubernetes; quote it, or write true, false or digits"
        )


SHELL_KEYS = re.compile(r"_?commands$|_?run_options$|UserData$|metadata$|env(ironment)?$")
"""Keys of a launcher file whose values shells read, on the cluster's machines."""


def add_variables(values: Mapping[str, Any], faults: Faults) -> None:
    """Add a fault for every environment variable in a launcher file where no shell replaces it.

    Args:
        values: the file's content.
        faults: the document's.
    """
    for key_path, variable in variables_in(values):
        if not any(SHELL_KEYS.search(str(part)) for part in key_path):
            faults.add(key_path, f"{variable} would be taken literally; write its value, since Ray replaces none here")


THIS_MACHINE = "this-machine"
LEAST_STORE_MB = 80
"""Ray's smallest object store."""
NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")


class Provider(Section):
    """The provider of a cluster file for this machine."""

    type: Literal["this-machine"] = Field(description="Ray runs on this machine.")


class LocalFile(Section):
    """A cluster file for this machine."""

    cluster_name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$", description="Name of the cluster.")
    provider: Provider = Field(description="The provider of the machines.")
    cpus: int | None = Field(None, ge=1, description="CPUs that Ray schedules on; null: all of the machine.")
    gpus: int | None = Field(None, ge=0, description="GPUs that Ray schedules on; null: all of the machine.")
    object_store_mb: int | None = Field(None, ge=LEAST_STORE_MB, description="Ray's object store; null: Ray decides.")
    dashboard_port: int = Field(8265, ge=1024, le=65535, description="Port of the dashboard, on loopback.")


def read_local(document: Document, file: Path) -> Cluster:
    """Return this machine as a cluster of one node, as its file describes it.

    Raises:
        RecipeError: the file has faults; all of them are listed with file and line.
    """
    checked = validate(LocalFile, document.to_dict(), document)
    if isinstance(checked, list):
        raise RecipeError(checked)
    gpus = gpus_of_this_machine() if checked.gpus is None else checked.gpus
    head = _head(checked.cpus, gpus)
    return Cluster(
        kind="local", name=checked.cluster_name, file=file, groups=(head,), settings=checked.model_dump(mode="json")
    )


def this_machine() -> Cluster:
    """Return all of this machine as a cluster of one node, without a cluster file."""
    head = _head(None, gpus_of_this_machine())
    return Cluster(kind="local", name=THIS_MACHINE, file=Path(THIS_MACHINE), groups=(head,), settings={})


def _head(cpus: int | None, gpus: int) -> NodeGroup:
    return NodeGroup(name=THIS_MACHINE, machine=None, market="owned", fewest=1, most=1, cpus=cpus, gpus=gpus, head=True)


def gpus_of_this_machine(devices: Path = NVIDIA_DEVICES) -> int:
    """Return the number of NVIDIA GPUs that the driver lists on this machine."""
    return len(list(devices.iterdir())) if devices.is_dir() else 0
