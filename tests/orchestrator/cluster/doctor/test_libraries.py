from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.cluster.doctor.python_env import Import, attempt_import, check_companion, check_import


def test_real_import() -> None:
    imported = attempt_import("pytest")
    assert imported == Import("pytest", pytest.__version__)
    assert check_import(imported).level == "pass"


def test_module_that_is_not_there() -> None:
    finding = check_import(attempt_import("no_such_module_anywhere"))
    assert finding.level == "error"
    assert "is not installed" in finding.found


def test_module_that_breaks_at_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_at_import.py").write_text("print('noise')\nraise RuntimeError('operator x::nms is missing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    imported = attempt_import("broken_at_import")
    assert imported.error == "RuntimeError: operator x::nms is missing"
    assert "broken_at_import" not in sys.modules
    finding = check_import(Import("torch", "2.14.1", imported.error))
    assert "2.14.1 cannot be imported: RuntimeError" in finding.found
    assert "make install" in finding.fix


@pytest.mark.parametrize("module", ["torchvision", "timm"])
def test_different_builds_of_torch_and_torchvision_are_the_reason(module: str) -> None:
    finding = check_companion(Import(module, "1.0", "RuntimeError: nms"), "2.14.1+cpu", "0.29.2")
    assert finding.level == "error"
    assert "torch 2.14.1+cpu and torchvision 0.29.2 are different builds" in finding.found
    assert "from the same package index" in finding.fix


def test_companion_of_the_same_build_shows_its_own_fault() -> None:
    imported = Import("timm", "1.0", "ImportError: x")
    assert check_companion(imported, "2.14.1", "0.29.2") == check_import(imported)


def test_companion_that_works_passes_whatever_its_build() -> None:
    assert check_companion(Import("torchvision", "0.29.2"), "2.14.1+cpu", "0.29.2").level == "pass"
