"""The distributions whose code a job needs: Fuseray's own, and the one that brings the recipe's workload."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from orchestrator.cluster.jobs.errors import PackageError
from orchestrator.config.loading import workload_distribution

OWN_NAME = "fuseray"
OWN_MODULES = ("orchestrator", "workloads")
GROUPS = "fuseray."
"""How the names of the entry points begin that a job looks for."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """A distribution as it travels.

    Args:
        name: as pip knows it.
        version: of it.
        modules: its packages and modules: dotted name, and folder or file.
        entry_points: the content of its entry_points.txt, as far as Fuseray reads it.
    """

    name: str
    version: str
    modules: tuple[tuple[str, Path], ...]
    entry_points: str

    @property
    def metadata(self) -> str:
        """The content of its METADATA."""
        return f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"

    @property
    def folder(self) -> str:
        """The name of its folder of metadata."""
        return f"{self.name.replace('-', '_')}-{self.version}.dist-info"


def distributions_for(workload: str) -> tuple[Shipped, ...]:
    """Return what a recipe's job needs of this Python environment.

    Args:
        workload: the recipe's workload.

    Raises:
        PackageError: Fuseray or the workload is not installed in a way that can be packed.
    """
    try:
        own = distribution(OWN_NAME)
    except PackageNotFoundError as error:
        raise PackageError(f"{OWN_NAME}: is not installed in this Python environment; pip install it.") from error
    shipped = [_shipped(own, OWN_MODULES)]
    theirs = workload_distribution(workload)
    if theirs is not None and theirs.name != own.name:
        shipped.append(_shipped(theirs, sorted(_module_names(theirs))))
    return tuple(shipped)


def _shipped(found: Distribution, names: Iterable[str]) -> Shipped:
    modules = tuple(module for name in names for module in _located(name))
    if not modules:
        raise PackageError(f"{found.name}: no Python package of this distribution can be found; install it again.")
    return Shipped(found.name, found.version, modules, _entry_points(found))


def _entry_points(found: Distribution) -> str:
    parser = ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    for point in found.entry_points:
        if point.group.startswith(GROUPS):
            parser.read_dict({point.group: {point.name: point.value}})
    text = StringIO()
    parser.write(text)
    return text.getvalue()


def _module_names(found: Distribution) -> set[str]:
    """Return the names that a distribution's code goes by; an editable one may list none of its files."""
    named = {point.module for point in found.entry_points if point.group.startswith(GROUPS)}
    named |= set((found.read_text("top_level.txt") or "").split())
    return {_regular(name) for name in named} | set(_listed(found))


def _listed(found: Distribution) -> Iterator[str]:
    for file in found.files or ():
        top = file.parts[0]
        if len(file.parts) == 1 and file.suffix == ".py" and not top.startswith(("_editable", "__editable")):
            yield file.stem
        elif len(file.parts) == 2 and file.name == "__init__.py":
            yield top


def _regular(name: str) -> str:
    """Return the first part of a dotted name that is a package of its own: a namespace is shared with others."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        spec = find_spec(".".join(parts[:length]))
        if spec is not None and spec.origin is not None:
            return ".".join(parts[:length])
    return name


def _located(name: str) -> Iterator[tuple[str, Path]]:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return
    if spec.submodule_search_locations:
        yield name, Path(next(iter(spec.submodule_search_locations)))
    else:
        yield name, Path(spec.origin)
