"""The command line stays quick: recipes and verbs are imported without the large libraries."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import orchestrator.cli
import orchestrator.config

HEAVY = {"torch", "ray", "mlflow", "timm", "transformers"}
HELP_CPU_S = 0.5


@pytest.mark.parametrize("package", [orchestrator.config, orchestrator.cli])
def test_light_packages_leave_heavy_libraries_out(package: ModuleType) -> None:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = sorted(module.name for module in found if not module.name.endswith("__main__"))
    assert names
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names}]; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert HEAVY & set(ran.stdout.split()) == set()


def test_driver_and_controller_leave_torch_to_the_workers() -> None:
    names = ("orchestrator.train.driver", "orchestrator.train.ray_trainer", "orchestrator.evaluate.pool")
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names}]; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not {"torch", "timm", "transformers"} & set(ran.stdout.split())


def _cpu_seconds_of_help() -> float:
    """Run `fuseray --help` and return the CPU time of that process alone, in seconds."""
    command = [sys.executable, "-m", "orchestrator.cli", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_answers_at_once() -> None:
    assert min(_cpu_seconds_of_help() for _ in range(3)) < HELP_CPU_S
