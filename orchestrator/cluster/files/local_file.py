"""A cluster file for this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from orchestrator.config.cluster import Cluster, NodeGroup
from orchestrator.config.document import Document
from orchestrator.config.errors import RecipeError
from orchestrator.config.loading import validate
from workloads.contract import Section

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
    checked = validate(LocalFile, document.plain(), document)
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
