"""All checks of `fuseray doctor`, in the order of its report."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from orchestrator.cluster.doctor.gpu import check_bfloat16, check_gpu, driver_version, read_cuda
from orchestrator.cluster.doctor.host import (
    check_cpus,
    check_disk,
    check_memory,
    check_open_files,
    check_python,
    check_shared_memory,
    check_socket_paths,
    read_limits,
)
from orchestrator.cluster.doctor.python_env import (
    attempt_import,
    check_companion,
    check_import,
    check_plugins,
    check_project,
    installed_version,
    project_requirements,
)
from orchestrator.cluster.doctor.services import (
    check_credentials,
    check_storage,
    check_tracking,
    credentials_provider,
)
from orchestrator.cluster.findings import Finding
from orchestrator.config.loading import corpus_names, find_corpus, find_workload
from orchestrator.config.recipe import ScaleSection, TrackingSection
from orchestrator.config.recipe_paths import SQLITE
from orchestrator.storage.ray_folder import ray_folder

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


@dataclass(frozen=True, slots=True)
class ServicesToCheck:
    """The services to check, in addition to the machine.

    Args:
        storage: URIs to list.
        endpoint: address of an S3-compatible server.
        tracking: MLflow tracking URI; None for the recipes' default, if it exists.
    """

    storage: tuple[str, ...] = ()
    endpoint: str | None = None
    tracking: str | None = None


def examine(services: ServicesToCheck) -> Iterator[Finding]:
    """Run all checks; yield the finding of each."""
    yield check_python(sys.version_info[:3])
    yield from check_project(project_requirements(), installed_version)
    yield from _libraries()
    yield from _host()
    yield check_credentials(credentials_provider)
    yield from (check_storage(uri, services.endpoint) for uri in services.storage)
    yield from (check_tracking(uri) for uri in _tracking_uris(services.tracking))
    names = sorted(point.name for point in entry_points(group="fuseray.workloads"))
    yield from check_plugins("workloads", names, find_workload)
    yield from check_plugins("corpora", corpus_names(), find_corpus)


def _libraries() -> Iterator[Finding]:
    torch = attempt_import("torch")
    yield check_import(torch)
    if torch.error is None:
        cuda = read_cuda()
        yield check_gpu(cuda, driver_version(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        if (bfloat16 := check_bfloat16(cuda.devices)) is not None:
            yield bfloat16
        torchvision = installed_version("torchvision")
        for companion in ("torchvision", "timm"):
            yield check_companion(attempt_import(companion), torch.version, torchvision)
    yield check_import(attempt_import("ray"))


def _host() -> Iterator[Finding]:
    limits = read_limits()
    cpus = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus
    yield check_cpus(cpus, affinity, limits.cpus)
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    yield check_memory(page_bytes * os.sysconf("SC_PHYS_PAGES"), _available_bytes(page_bytes), limits.memory_bytes)
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
    yield check_shared_memory(free, ScaleSection().object_store_mb * 10**6)
    yield check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    current, ray = Path.cwd(), ray_folder()
    yield check_disk("disk", current, *_disk(current))
    yield check_socket_paths(ray)
    yield check_disk("disk for ray", ray, *_disk(ray), for_ray=True)


def spare_memory_bytes() -> int:
    """Return the main memory that this process can still allocate, within its container's limit."""
    available = _available_bytes(os.sysconf("SC_PAGE_SIZE"))
    limit = read_limits().memory_bytes
    return available if limit is None else min(available, limit)


def _available_bytes(page_bytes: int) -> int:
    """Return the machine's available memory, which includes the page cache."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return page_bytes * os.sysconf("SC_PHYS_PAGES")
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _disk(path: Path) -> tuple[int, int]:
    usage = shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.is_dir()))
    return usage.total, usage.free


def _tracking_uris(uri: str | None) -> list[str]:
    if uri is not None:
        return [uri]
    default = TrackingSection().uri
    return [default] if Path(default.removeprefix(SQLITE)).is_file() else []
