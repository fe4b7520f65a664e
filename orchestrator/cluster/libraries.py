"""Checks that the large libraries can be imported, and that torch's companions fit it."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module

from orchestrator.cluster.finding import Finding, failed, passed
from orchestrator.cluster.packages import REINSTALL, installed_version


@dataclass(frozen=True, slots=True)
class Import:
    """The outcome of importing a module.

    Args:
        module: its name.
        version: the installed version, build tag included; None when it is not installed.
        error: what went wrong; None when nothing did.
    """

    module: str
    version: str | None
    error: str | None = None


def attempt_import(module: str) -> Import:
    """Import a module, whatever comes of it; what it prints is dropped."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            import_module(module)
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return Import(module, installed_version(module), said)
    return Import(module, installed_version(module))


def check_import(imported: Import) -> Finding:
    """Check that a module could be imported."""
    if imported.error is None:
        return passed(imported.module, f"{imported.version or 'unknown version'}")
    if imported.version is None:
        return failed(imported.module, f"is not installed ({imported.error})", REINSTALL)
    return failed(imported.module, f"{imported.version} cannot be imported: {imported.error}", REINSTALL)


def check_companion(imported: Import, torch: str | None, torchvision: str | None) -> Finding:
    """Check that torchvision, or timm which needs it, could be imported beside torch.

    Args:
        imported: the outcome.
        torch: torch's installed version.
        torchvision: torchvision's installed version; it only works beside a torch of the same build.
    """
    finding = check_import(imported)
    if finding.level == "pass" or _build(torch) == _build(torchvision):
        return finding
    found = f"{finding.found} (torch {torch} and torchvision {torchvision} are different builds)"
    return failed(imported.module, found, f"Take both from the same place. {REINSTALL}")


def _build(version: str | None) -> str:
    """Return a version's build tag, such as "cpu" in 2.11.0+cpu; PyPI's builds have none."""
    return (version or "").partition("+")[2]
