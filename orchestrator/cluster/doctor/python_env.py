"""Checks that the large libraries can be imported, and that torch's companions fit it."""

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


# Checks of the installed packages against what the project's metadata asks for.


EXTRA = "train"
REINSTALL = "Install what the project asks for: make install, or pip install 'fuseray[train]'"


def check_project(requirements: Sequence[str] | None, version_of: Callable[[str], str | None]) -> list[Finding]:
    """Check that every requirement is installed at a version it allows.

    Args:
        requirements: the project's requirements as its metadata lists them; None when it is not installed.
        version_of: returns a package's installed version, or None.

    Returns:
        One finding when all is well, otherwise one for each package that is not.
    """
    if requirements is None:
        return [failed("packages", "fuseray is not installed in this environment", REINSTALL)]
    asked = [requirement for requirement in map(Requirement, requirements) if _applies(requirement)]
    faults = [fault for requirement in asked if (fault := _fault(requirement, version_of(requirement.name)))]
    return faults or [passed("packages", f"{len(asked)} packages at versions that fuseray allows")]


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


def _fault(requirement: Requirement, found: str | None) -> Finding | None:
    name = f"package {requirement.name}"
    if found is None:
        return failed(name, f"is not installed; fuseray asks for {requirement.specifier or 'any version'}", REINSTALL)
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return failed(name, f"{found} is installed; fuseray asks for {requirement.specifier}", REINSTALL)


# Checks that the registered workloads and corpora can be loaded.


def check_plugins(kind: str, names: Sequence[str], find: Callable[[str], object]) -> list[Finding]:
    """Check that everything registered under an entry-point group loads and keeps its contract.

    Args:
        kind: "workloads" or "corpora".
        names: what is registered.
        find: loads one by name.

    Returns:
        One finding when all is well, otherwise one for each that cannot be loaded.
    """
    if not names:
        return [warned(kind, "none is registered", "Install the project itself: make install.")]
    faults = [fault for name in names if (fault := _plugin_fault(kind, name, find))]
    return faults or [passed(kind, ", ".join(names))]


def _plugin_fault(kind: str, name: str, find: Callable[[str], object]) -> Finding | None:
    try:
        find(name)
    except Exception as error:
        fix = "Reinstall or remove the package that registers it."
        return failed(kind, f"{name} cannot be loaded: {type(error).__name__}: {error}", fix)
    return None
