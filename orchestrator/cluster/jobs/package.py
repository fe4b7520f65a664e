"""What a job takes along: code, the recipe, and a table of prices; the same content gives the same file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from orchestrator.cluster.jobs.client import PackageError
from orchestrator.cluster.jobs.portability import check_content, check_name, is_left_out
from orchestrator.config.loading import workload_distribution

# The files of a Python package that travel with a job.


MOST_BYTES = 64 * 2**20
LARGEST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that travels.

    Args:
        name: its path there, with slashes.
        path: where it is on this machine.
        size_bytes: its size.
    """

    name: str
    path: Path
    size_bytes: int

    def read(self) -> bytes:
        """Return the content.

        Raises:
            PackageError: it cannot be read, or holds a private key.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise PackageError(f"{self.path}: cannot be read ({error.strerror}).") from error
        check_content(content, str(self.path))
        return content


def source_files(top: Path, name: str) -> list[SourceFile]:
    """Return the files of a package, or the file of a module, by name.

    Args:
        top: the package's folder or the module's file.
        name: its path in the working directory of the job, with slashes.

    Raises:
        PackageError: something in it must not travel.
    """
    if top.is_file():
        return [_source_file(top, name)]
    found = (_source_file(path, f"{name}/{path.relative_to(top).as_posix()}") for path in _walk(top))
    return sorted(found, key=lambda file: file.name)


def check_size(files: Sequence[SourceFile], most_bytes: int = MOST_BYTES) -> None:
    """Refuse what is too large to be code.

    Raises:
        PackageError: it is; the largest files are named.
    """
    total = sum(file.size_bytes for file in files)
    if total <= most_bytes:
        return
    largest = sorted(files, key=lambda file: file.size_bytes, reverse=True)[:LARGEST_SHOWN]
    named = ", ".join(f"{file.path} ({_megabytes(file.size_bytes)})" for file in largest)
    raise PackageError(
        f"the code is {_megabytes(total)}, more than the {_megabytes(most_bytes)} that may travel with a job; "
        f"the largest files are {named}. Keep data and weights out of Python packages."
    )


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not is_left_out(name)]
        for name in folders:
            _check_folder(Path(folder) / name)
        yield from (Path(folder) / name for name in names if not is_left_out(name))


def _check_folder(folder: Path) -> None:
    check_name(folder.name, str(folder))
    if folder.is_symlink():
        raise PackageError(
            f"{folder}: is a link to a folder, whose files would not travel; put the folder itself into the package."
        )


def _source_file(path: Path, name: str) -> SourceFile:
    target = path.resolve()
    for one in (path, target):
        check_name(one.name, str(path))
    if not target.is_file():
        raise PackageError(f"{path}: is no regular file; remove it from the package.")
    return SourceFile(name, path, target.stat().st_size)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MB"


# What a job takes along: code, the recipe, and a table of prices; the same content gives the same file.


RECIPE_NAME = "recipe.yaml"
PRICES_NAME = "prices.yaml"
SWEEP_NAME = "sweep.yaml"
"""The sweep's file in the package; it names the recipe beside it."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the package, as early as zip files know it."""


@dataclass(frozen=True, slots=True)
class Package:
    """A packed job.

    Args:
        path: the zip file.
        digest: of its content, SHA-256.
        size_bytes: its size.
        names: the files in it.
    """

    path: Path
    digest: str
    size_bytes: int
    names: tuple[str, ...]


def build_package(
    path: Path,
    recipe: str,
    workload: str,
    prices: str | None = None,
    sweep: str | None = None,
    most_bytes: int = MOST_BYTES,
) -> Package:
    """Write a zip file that becomes the working directory of a job.

    Args:
        path: the file to write; Ray wants its name to end in .zip.
        recipe: the resolved recipe, as YAML.
        workload: the recipe's workload.
        prices: a table of prices, as YAML.
        sweep: a sweep over the recipe, as YAML.
        most_bytes: how large the code may be before it is packed.

    Raises:
        PackageError: something must not or cannot travel; no file is written.
    """
    shipped = distributions_for(workload)
    files = {file.name: file for one in shipped for file in _code(one)}
    check_size(tuple(files.values()), most_bytes)
    contents = {name: file.read() for name, file in files.items()}
    for name, text in _texts(shipped, {RECIPE_NAME: recipe, PRICES_NAME: prices, SWEEP_NAME: sweep}):
        check_content(text.encode(), name)
        contents[name] = text.encode()
    _write(path, contents)
    packed = path.read_bytes()
    return Package(path, sha256(packed).hexdigest(), len(packed), tuple(sorted(contents)))


def _code(shipped: Shipped) -> Iterator[SourceFile]:
    for dotted, top in shipped.modules:
        name = dotted.replace(".", "/")
        yield from source_files(top, name if top.is_dir() else f"{name}{top.suffix}")


def _texts(shipped: tuple[Shipped, ...], files: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    for one in shipped:
        yield f"{one.folder}/METADATA", one.metadata
        yield f"{one.folder}/entry_points.txt", one.entry_points
    yield from ((name, text) for name, text in files.items() if text is not None)


def _write(path: Path, contents: Mapping[str, bytes]) -> None:
    with ZipFile(path, "w") as archive:
        for name in sorted(contents):
            info = ZipInfo(name, EPOCH)
            info.compress_type = ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, contents[name])


# The distributions whose code a job needs: Fuseray's own, and the one that brings the recipe's workload.


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
