"""From a cluster file to a checked cluster, whatever kind of file it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from orchestrator.cluster.files.kuberay import is_manifest, read_kuberay
from orchestrator.cluster.files.ray_launcher import read_launcher
from orchestrator.cluster.findings import Faults
from orchestrator.config.cluster import Cluster, NodeGroup
from orchestrator.config.document import Document, KeyPath, read_text
from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.loading import validate
from orchestrator.config.prices import PriceTable, read_prices
from workloads.contract import Section

KINDS = (
    "It takes a file for this machine (provider: {type: this-machine}), a file for Ray's cluster launcher (provider: "
    "{type: aws}, for example) or manifests with a RayCluster or RayJob; clusters/ has one of each to start from."
)


def read_cluster(path: Path, prices: PriceTable | None = None) -> Cluster:
    """Read and check a cluster file. Nothing is started, and no cloud is asked anything.

    Args:
        path: the file.
        prices: what is known of machines; None reads the usual table.

    Raises:
        ConfigError: the file cannot be read or is no cluster file.
        RecipeError: it is wrong; all faults are listed with file and line.
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
    return read_launcher(document, file, prices or read_prices(), _ambiguities(documents, text, str(path))[0])


def _ambiguities(documents: list[Document], text: str, origin: str) -> list[Faults]:
    faults = [Faults(document) for document in documents]
    for document, theirs, noted in zip(documents, read_as_their_tools_do(text, origin), faults, strict=True):
        refuse_ambiguous(document.to_dict(), theirs, noted)
    return faults


# Values that Ray and Kubernetes read differently from how they look.
#
# Both read YAML 1.1, in which an unquoted `no`, `on` or `0644` is not text and `12:30` is a number.


def read_as_their_tools_do(text: str, origin: str) -> list[Any]:
    """Return the documents as YAML 1.1 has them; empty ones are left out.

    Raises:
        ConfigError: those tools could not read it.
    """
    try:
        return [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: Ray and Kubernetes cannot read this, which is no YAML 1.1: {error}") from error


def refuse_ambiguous(ours: Any, theirs: Any, faults: Faults, key_path: KeyPath = ()) -> None:
    """Note every value that the two versions of YAML read differently."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        named = {str(key): value for key, value in theirs.items()}
        for key, value in ours.items():
            refuse_ambiguous(value, named.get(key), faults, (*key_path, key))
    elif isinstance(ours, list) and isinstance(theirs, list):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            refuse_ambiguous(mine, other, faults, (*key_path, index))
    elif ours != theirs and str(theirs) != str(ours):
        faults.add(
            key_path, f"is read as {theirs!r} by whoever gets this file; quote it, or write true, false or digits"
        )


# A cluster file for this machine alone.


THIS_MACHINE = "this-machine"
LEAST_STORE_MB = 80
"""Ray refuses a smaller object store."""
NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")


class Provider(Section):
    """Who starts the machines."""

    type: Literal["this-machine"] = Field(description="Ray runs on this machine.")


class LocalFile(Section):
    """What a cluster file for this machine may say."""

    cluster_name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$", description="Name of the cluster.")
    provider: Provider = Field(description="Who starts the machines.")
    cpus: int | None = Field(None, ge=1, description="CPUs that Ray hands out; null: all of the machine.")
    gpus: int | None = Field(None, ge=0, description="GPUs that Ray hands out; null: all of the machine.")
    object_store_mb: int | None = Field(None, ge=LEAST_STORE_MB, description="Ray's object store; null: Ray decides.")
    dashboard_port: int = Field(8265, ge=1024, le=65535, description="Port of the dashboard, on loopback.")


def read_local(document: Document, file: Path) -> Cluster:
    """Return this machine as a cluster of one.

    Raises:
        RecipeError: the file is wrong; all faults are listed with file and line.
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
    """Return all of this machine as a cluster of one, for which there is no file."""
    head = _head(None, gpus_of_this_machine())
    return Cluster(kind="local", name=THIS_MACHINE, file=Path(THIS_MACHINE), groups=(head,), settings={})


def _head(cpus: int | None, gpus: int) -> NodeGroup:
    return NodeGroup(name=THIS_MACHINE, machine=None, market="owned", fewest=1, most=1, cpus=cpus, gpus=gpus, head=True)


def gpus_of_this_machine(devices: Path = NVIDIA_DEVICES) -> int:
    """Return how many NVIDIA GPUs the driver has here."""
    return len(list(devices.iterdir())) if devices.is_dir() else 0
