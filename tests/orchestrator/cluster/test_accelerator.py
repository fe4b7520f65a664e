from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.doctor.gpu import Cuda, Device, check_bfloat16, check_gpu, driver_version, has_code, read_cuda
from orchestrator.cluster.findings import Level

NEW = Device("H100", "sm_90", supported=True, bfloat16=True)
OLD = Device("T4", "sm_75", supported=True, bfloat16=False)
ANCIENT = Device("K80", "sm_37", supported=False, bfloat16=False)


@pytest.mark.parametrize(
    ("cuda", "driver", "visible", "level", "part"),
    [
        (Cuda("13.0"), None, None, "pass", "no NVIDIA GPU"),
        (Cuda("13.0", (NEW, NEW)), "580.1", None, "pass", "2 x H100, CUDA 13.0, driver 580.1"),
        (Cuda("13.0", (NEW,)), None, None, "pass", "driver unknown"),
        (Cuda("13.0", (NEW, ANCIENT)), "580.1", None, "error", "no code for sm_37"),
        (Cuda("13.0"), "580.1", "", "warning", "CUDA_VISIBLE_DEVICES=''"),
        (Cuda("13.0"), "580.1", "-1", "warning", "CUDA_VISIBLE_DEVICES='-1'"),
        (Cuda(None), "580.1", None, "error", "a build for CPUs only"),
        (Cuda("13.0", reason="driver too old"), "470.1", "0", "error", "cannot use a GPU. driver too old"),
    ],
)
def test_gpu(cuda: Cuda, driver: str | None, visible: str | None, level: Level, part: str) -> None:
    finding = check_gpu(cuda, driver, visible)
    assert finding.level == level
    assert part in finding.found
    assert bool(finding.fix) == (level != "pass")


@pytest.mark.parametrize(
    ("compiled", "capability", "runs"),
    [
        (["sm_75", "sm_80"], (8, 6), True),
        (["sm_75", "sm_86"], (8, 0), False),
        (["sm_75", "sm_90"], (10, 0), False),
        (["sm_75", "compute_90"], (10, 0), True),
        (["sm_75", "compute_90"], (7, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_120"], (12, 0), True),
        (["gfx90a"], (9, 0), False),
        ([], (9, 0), False),
    ],
)
def test_code_runs_on_its_generation_or_is_translated(
    compiled: list[str], capability: tuple[int, int], runs: bool
) -> None:
    assert has_code(compiled, capability) == runs


def test_bfloat16() -> None:
    assert check_bfloat16([]) is None
    both, mixed = check_bfloat16([NEW, NEW]), check_bfloat16([NEW, OLD])
    assert both is not None
    assert both.level == "pass"
    assert mixed is not None
    assert mixed.level == "warning"
    assert "T4" in mixed.found
    assert "H100" not in mixed.found


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 UTC 2025\n", "580.95.05"),
        ("NVRM version: nothing to read\n", "unknown"),
        (None, None),
    ],
)
def test_driver_version(tmp_path: Path, text: str | None, version: str | None) -> None:
    if text is not None:
        (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version


def test_torch_is_really_asked() -> None:
    import torch

    assert len(read_cuda().devices) == torch.cuda.device_count()
    assert read_cuda().built_for == torch.version.cuda
