from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.doctor.host import Limits, read_limits


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        ("0::/", {"cpu.max": "150000 100000", "memory.max": "2147483648"}, Limits(1.5, 2**31)),
        ("0::/", {"cpu.max": "max 100000", "memory.max": "max"}, Limits()),
        ("0::/", {}, Limits()),
        (
            "0::/a/b",
            {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000", "a/b/memory.max": "9", "a/memory.max": "8"},
            Limits(1.0, 8),
        ),
        (
            "4:cpu,cpuacct:/job\n3:memory:/job",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "memory/job/memory.limit_in_bytes": "1000",
            },
            Limits(0.5, 1000),
        ),
        (
            "4:cpu,cpuacct:/gone\n3:memory:/gone",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            Limits(),
        ),
    ],
    ids=["v2", "v2 unlimited", "v2 root", "v2 tightest of nested groups", "v1", "v1 unlimited"],
)
def test_limits(tmp_path: Path, membership: str, files: dict[str, str], limits: Limits) -> None:
    _write(tmp_path / "cgroup", files)
    _write(tmp_path, {"membership": membership})
    assert read_limits(tmp_path / "cgroup", tmp_path / "membership") == limits


def test_a_system_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path, tmp_path / "none") == Limits()
