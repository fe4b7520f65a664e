from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.doctor.host import (
    GB,
    check_cpus,
    check_disk,
    check_memory,
    check_open_files,
    check_python,
    check_shared_memory,
)
from orchestrator.cluster.findings import Level


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10, 14), "error"), ((3, 11, 0), "pass"), ((3, 12, 1), "pass"), ((3, 13, 0), "error"), ((2, 11, 0), "error")],
)
def test_python_is_3_11_or_3_12(version: tuple[int, ...], level: Level) -> None:
    assert check_python(version).level == level


def test_unsupported_python_is_named_with_its_fix() -> None:
    finding = check_python((3, 10, 14))
    assert "3.10.14" in finding.found
    assert "3.11 or 3.12" in finding.fix


@pytest.mark.parametrize(
    ("counted", "affinity", "quota", "level", "usable"),
    [
        (8, 8, None, "pass", "8"),
        (8, 8, 8.0, "pass", "8"),
        (8, 8, 16.0, "pass", "8"),
        (8, 8, 1.5, "warning", "1.5"),
        (8, 2, None, "warning", "2"),
        (8, 2, 1.0, "warning", "1"),
        (1, 1, None, "warning", "1"),
    ],
)
def test_cpus(counted: int, affinity: int, quota: float | None, level: Level, usable: str) -> None:
    finding = check_cpus(counted, affinity, quota)
    assert finding.level == level
    assert finding.found.split()[0] == usable
    assert (f"at most {usable}." in finding.fix) == (level == "warning")


@pytest.mark.parametrize(
    ("total", "available", "limit", "level"),
    [
        (16, 12, None, "pass"),
        (16, 12, 8, "pass"),
        (16, 12, 32, "pass"),
        (16, 12, 2, "warning"),
        (16, 1, None, "warning"),
        (2, 2, None, "warning"),
    ],
)
def test_memory(total: int, available: int, limit: int | None, level: Level) -> None:
    finding = check_memory(total * GB, available * GB, None if limit is None else limit * GB)
    assert finding.level == level
    assert ("container" in finding.found) == (limit is not None and limit < total)


def test_shared_memory_smaller_than_the_object_store_is_a_warning() -> None:
    finding = check_shared_memory(64 * 10**6, 512 * 10**6)
    assert finding.level == "warning"
    assert "falls back" in finding.found
    assert "--shm-size=1024m" in finding.fix


@pytest.mark.parametrize("free", [None, 512 * 10**6])
def test_enough_or_no_shared_memory_passes(free: int | None) -> None:
    assert check_shared_memory(free, 512 * 10**6).level == "pass"


@pytest.mark.parametrize(
    ("soft", "hard", "level", "limit"),
    [
        (1024, 1048576, "pass", "65536"),
        (100000, 100000, "pass", "100000"),
        (1024, 2048, "warning", "2048"),
        (1024, 4096, "pass", "4096"),
    ],
)
def test_open_files_count_what_ray_raises_by_itself(soft: int, hard: int, level: Level, limit: str) -> None:
    finding = check_open_files(soft, hard)
    assert finding.level == level
    assert limit in finding.found


@pytest.mark.parametrize(
    ("total", "free", "for_ray", "level"),
    [
        (100, 50, False, "pass"),
        (100, 5, False, "warning"),
        (100, 0.5, False, "error"),
        (100, 50, True, "pass"),
        (1000, 40, False, "pass"),
        (1000, 40, True, "error"),
    ],
)
def test_disk(total: float, free: float, for_ray: bool, level: Level) -> None:
    finding = check_disk("disk", Path("/here"), int(total * GB), int(free * GB), for_ray)
    assert finding.level == level
    assert "/here" in finding.found
    assert ("RAY_TMPDIR" in finding.fix) == (for_ray and level != "pass")
