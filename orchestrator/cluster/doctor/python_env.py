"""Checks of the Python environment: imports of large libraries, versions of packages, and registered plug-ins."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement

from orchestrator.cluster.findings import Finding, failed, passed, warned


@dataclass(frozen=True, slots=True)
class Import:
    """Result of importing a module.

    Args:
        module: its name.
        version: the installed version, build tag included; None when it is not installed.
        error: the error; None on success.
    """

    module: str
    version: str | None
    error: str | None = None


def attempt_import(module: str) -> Import:
    """Import a module, without its output; an error is part of the result."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            import_module(module)
    except Exception as error:
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        return Import(module, installed_version(module), first_line)
    return Import(module, installed_version(module))


def check_import(imported: Import) -> Finding:
    """Check that a module could be imported."""
    if imported.error is None:
        return passed(imported.module, f"{imported.version or 'unknown version'}")
    if imported.version is None:
        return failed(imported.module, f"is not installed ({imported.error})", REINSTALL)
    return failed(imported.module, f"{imported.version} cannot be imported: {imported.error}", REINSTALL)


def check_companion(imported: Import, torch: str | None, torchvision: str | None) -> Finding:
    """Check that torchvision, or timm which needs it, could be imported together with torch.

    Args:
        imported: the result of the import.
        torch: torch's installed version.
        torchvision: torchvision's installed version; it only works with a torch of the same build.
    """
    finding = check_import(imported)
    if finding.level == "pass" or _build(torch) == _build(torchvision):
        return finding
    summary = f"{finding.found} (torch {torch} and torchvision {torchvision} are different builds)"
    return failed(imported.module, summary, f"Install both from the same package index. {REINSTALL}")


def _build(version: str | None) -> str:
    """Return a version's build tag, such as "cpu" in 2.11.0+cpu; PyPI's builds have none."""
    return (version or "").partition("+")[2]


EXTRA = "train"
REINSTALL = "Install the project's requirements: make install, or pip install 'fuseray[train]'"


def check_project(requirements: Sequence[str] | None, version_of: Callable[[str], str | None]) -> list[Finding]:
    """Check that every requirement is installed at an allowed version.

    Args:
        requirements: the requirements in the project's metadata; None when the project is not installed.
        version_of: returns a package's installed version, or None.

    Returns:
        One finding when all are, otherwise one for each package that is not.
    """
    if requirements is None:
        return [failed("packages", "fuseray is not installed in this environment", REINSTALL)]
    required = [requirement for requirement in map(Requirement, requirements) if _applies(requirement)]
    failures = [failure for entry in required if (failure := _check_version(entry, version_of(entry.name)))]
    return failures or [passed("packages", f"{len(required)} packages at versions that fuseray allows")]


def project_requirements() -> list[str] | None:
    """Return the requirements of the installed project, None when it is not installed."""
    try:
        return distribution("fuseray").requires or []
    except PackageNotFoundError:
        return None


def installed_version(package: str) -> str | None:
    """Return a package's installed version, None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": EXTRA})


def _check_version(requirement: Requirement, installed: str | None) -> Finding | None:
    name = f"package {requirement.name}"
    if installed is None:
        return failed(name, f"is not installed; fuseray requires {requirement.specifier or 'any version'}", REINSTALL)
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return failed(name, f"{installed} is installed; fuseray requires {requirement.specifier}", REINSTALL)


def check_plugins(kind: str, names: Sequence[str], find: Callable[[str], object]) -> list[Finding]:
    """Check that everything registered in an entry-point group can be loaded and implements its contract.

    Args:
        kind: "workloads" or "corpora".
        names: the registered names.
        find: loads one by name.

    Returns:
        One finding when all can be loaded, otherwise one for each that cannot.
    """
    if not names:
        return [warned(kind, "none is registered", "Install the project itself: make install.")]
    failures = [failure for name in names if (failure := _check_plugin(kind, name, find))]
    return failures or [passed(kind, ", ".join(names))]


def _check_plugin(kind: str, name: str, find: Callable[[str], object]) -> Finding | None:
    try:
        find(name)
    except Exception as error:
        fix = "Reinstall or remove the package that registers it."
        return failed(kind, f"{name} cannot be loaded: {type(error).__name__}: {error}", fix)
    return None
