"""Checks of the machine: Python, CPUs, memory, shared memory, open files, disk; limits of control groups v1 and v2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.cluster.findings import Finding, failed, passed, warned
from orchestrator.storage.ray_folder import SHORTER, has_room_for_sockets, too_long

GB = 10**9
SUPPORTED_PYTHONS = ((3, 11), (3, 12))
LEAST_CPUS = 2
"""One worker and one CPU for reading, the recipe's defaults."""
LEAST_MEMORY_BYTES = 4 * GB
RAY_RAISES_OPEN_FILES_TO = 65536
LEAST_OPEN_FILES = 4096
"""Below this, Ray warns of connection errors."""
LITTLE_DISK_BYTES = 10 * GB
LEAST_DISK_BYTES = GB
RAY_FULL_SHARE = 0.95
"""Ray refuses to write objects to a disk above this fraction of use."""


def check_python(version: Sequence[int]) -> Finding:
    """Check the version of Python, given as (major, minor, ...)."""
    text = ".".join(str(number) for number in version[:3])
    if tuple(version[:2]) in SUPPORTED_PYTHONS:
        return passed("python", text)
    return failed("python", f"{text} is not supported", "Use Python 3.11 or 3.12: make install PYTHON=python3.12")


def check_cpus(cpus: int, affinity: int, quota: float | None) -> Finding:
    """Check that there are enough CPUs, and that Ray does not count more than this process may use.

    Args:
        cpus: CPUs of the machine, all of which Ray schedules on.
        affinity: CPUs that this process may run on.
        quota: CPU quota of control groups, in CPUs; None without one.
    """
    usable = min(affinity, cpus if quota is None else quota)
    keep = f"keep scale.workers x scale.cpus_per_worker + stream.reader_cpus at most {usable:g}"
    if usable < cpus:
        summary = f"{usable:g} of the machine's {cpus} may be used (container limit or affinity)"
        return warned("cpus", summary, f"Raise the limit, or {keep}.")
    if cpus < LEAST_CPUS:
        return warned("cpus", f"{cpus}", f"{LEAST_CPUS} are better; otherwise {keep}.")
    return passed("cpus", f"{cpus}")


def check_memory(total: int, available: int, limit: int | None) -> Finding:
    """Check the memory, in bytes.

    Args:
        total: memory of the machine.
        available: memory of the machine that is available.
        limit: limit of control groups, memory in use included; None without one.
    """
    usable = total if limit is None else min(total, limit)
    within_limit = " within the container's limit" if usable < total else ""
    summary = f"{usable / GB:.1f} GB{within_limit}, {available / GB:.1f} GB of the machine's available"
    if min(usable, available) >= LEAST_MEMORY_BYTES:
        return passed("memory", summary)
    fix = f"Free some, or raise the limit: two small workers need {LEAST_MEMORY_BYTES // GB} GB."
    return warned("memory", summary, fix)


def check_shared_memory(free: int | None, object_store: int) -> Finding:
    """Check that Ray's object store fits into /dev/shm.

    Args:
        free: free bytes in /dev/shm; None where it does not exist.
        object_store: size of the object store in bytes.
    """
    if free is None:
        return passed("shared memory", "no /dev/shm on this system; Ray uses files")
    summary = f"{free / GB:.1f} GB free in /dev/shm"
    if free >= object_store:
        return passed("shared memory", summary)
    megabytes = object_store // 10**6
    return warned(
        "shared memory",
        f"{summary}, less than Ray's object store of {megabytes} MB, so Ray falls back to slow files in /tmp",
        f"Start the container with --shm-size={megabytes * 2}m, or lower scale.object_store_mb.",
    )


def check_open_files(soft: int, hard: int) -> Finding:
    """Check the limit of open files; Ray raises the soft limit towards the hard one by itself."""
    limit = max(soft, min(hard, RAY_RAISES_OPEN_FILES_TO))
    if limit >= LEAST_OPEN_FILES:
        return passed("open files", f"up to {limit}")
    return warned("open files", f"at most {limit}, which Ray may exhaust", "Raise the limit: ulimit -n 65536")


def check_socket_paths(folder: Path) -> Finding:
    """Check that the folder for Ray's temporary files is short enough for its sockets."""
    if has_room_for_sockets(folder):
        return passed("ray's folder", f"{folder}, short enough for Ray's sockets")
    return failed("ray's folder", too_long(folder), SHORTER)


def check_disk(name: str, path: Path, total: int, free: int, for_ray: bool = False) -> Finding:
    """Check the free space of a disk, in bytes.

    Args:
        name: name of the check.
        path: a folder on the disk.
        total: size of the disk.
        free: free space of the disk.
        for_ray: whether Ray writes its objects to it.
    """
    summary = f"{free / GB:.1f} of {total / GB:.1f} GB free at {path}"
    move = "Free some space, or let Ray write elsewhere with RAY_TMPDIR." if for_ray else "Free some space."
    if for_ray and free < (1 - RAY_FULL_SHARE) * total:
        return failed(name, f"{summary}; Ray stops writing above {RAY_FULL_SHARE:.0%} full", move)
    if free < LEAST_DISK_BYTES:
        return failed(name, summary, move)
    return warned(name, summary, move) if free < LITTLE_DISK_BYTES else passed(name, summary)


Number = TypeVar("Number", int, float)

UNLIMITED_BYTES = 2**60
"""Version 1 has a number near 2**63 for "no limit"."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of control groups; None for no limit.

    Args:
        cpus: CPU quota, in CPUs.
        memory_bytes: memory limit.
    """

    cpus: float | None = None
    memory_bytes: int | None = None


def read_limits(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> Limits:
    """Return the tightest limits of this process's groups and their parents.

    Args:
        root: where control groups are mounted.
        membership: the file with this process's groups.
    """
    if not membership.is_file():
        return Limits()
    folders = list(_folders(root, membership.read_text()))
    return Limits(
        cpus=_smallest(_cpus(folder) for folder in folders),
        memory_bytes=_smallest(_memory_bytes(folder) for folder in folders),
    )


def _folders(root: Path, membership: str) -> Iterator[Path]:
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / controllers
        group = base / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))


def _cpus(folder: Path) -> float | None:
    words = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    if len(words) != 2 or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int(words[1])


def _memory_bytes(folder: Path) -> int | None:
    words = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
    if not words or words[0] == "max" or int(words[0]) >= UNLIMITED_BYTES:
        return None
    return int(words[0])


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []


def _smallest(values: Iterable[Number | None]) -> Number | None:
    return min((value for value in values if value is not None), default=None)
