"""Checks that the registered workloads and corpora can be loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.cluster.finding import Finding, failed, passed, warned


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
    faults = [fault for name in names if (fault := _fault(kind, name, find))]
    return faults or [passed(kind, ", ".join(names))]


def _fault(kind: str, name: str, find: Callable[[str], object]) -> Finding | None:
    try:
        find(name)
    except Exception as error:
        fix = "Reinstall or remove the package that registers it."
        return failed(kind, f"{name} cannot be loaded: {type(error).__name__}: {error}", fix)
    return None
