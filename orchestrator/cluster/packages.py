"""Checks of the installed packages against what the project's metadata asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement

from orchestrator.cluster.finding import Finding, failed, passed

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
