"""The CPU and memory that a container or service may use, from Linux control groups (versions 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)

UNLIMITED_BYTES = 2**60
"""Version 1 writes a number near 2**63 for "no limit"."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What control groups allow; None where they set no limit.

    Args:
        cpus: CPUs' worth of time.
        memory_bytes: memory.
    """

    cpus: float | None = None
    memory_bytes: int | None = None


def read_limits(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> Limits:
    """Return the tightest limits of this process's groups and the groups around them.

    Args:
        root: where control groups are mounted.
        membership: the file that names this process's groups.
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
