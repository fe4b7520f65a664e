"""Packs a job's working directory: code, recipe and price table, as a zip file that depends on the content alone.

The code is that of Fuseray and of the distribution with the recipe's workload; see `portability` for what is left out
and what is refused.
"""

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
from orchestrator.cluster.jobs.portability import check_content, check_name, is_ignored
from orchestrator.config.loading import workload_distribution

MOST_BYTES = 64 * 2**20
LARGEST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to pack.

    Args:
        name: its path in the job's working directory, with slashes.
        path: its path on this machine.
        size_bytes: its size.
    """

    name: str
    path: Path
    size_bytes: int

    def read(self) -> bytes:
        """Return the content.

        Raises:
            PackageError: it cannot be read, or contains a private key.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise PackageError(f"{self.path}: cannot be read ({error.strerror}).") from error
        check_content(content, str(self.path))
        return content


def source_files(top: Path, name: str) -> list[SourceFile]:
    """Return the files of a package, or the file of a module, sorted by name.

    Args:
        top: the package's folder or the module's file.
        name: its path in the job's working directory, with slashes.

    Raises:
        PackageError: it contains a file that must not be packed.
    """
    if top.is_file():
        return [_source_file(top, name)]
    files = (_source_file(path, f"{name}/{path.relative_to(top).as_posix()}") for path in _walk(top))
    return sorted(files, key=lambda file: file.name)


def check_size(files: Sequence[SourceFile], most_bytes: int = MOST_BYTES) -> None:
    """Refuse files that are together too large to be code.

    Raises:
        PackageError: they are; the largest files are named.
    """
    total = sum(file.size_bytes for file in files)
    if total <= most_bytes:
        return
    largest = sorted(files, key=lambda file: file.size_bytes, reverse=True)[:LARGEST_SHOWN]
    largest_names = ", ".join(f"{file.path} ({_megabytes(file.size_bytes)})" for file in largest)
    raise PackageError(
        f"the code is {_megabytes(total)}, more than the {_megabytes(most_bytes)} that a job's package may have; "
        f"the largest files are {largest_names}. Keep data and weights out of Python packages."
    )


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not is_ignored(name)]
        for name in folders:
            _check_folder(Path(folder) / name)
        yield from (Path(folder) / name for name in names if not is_ignored(name))


def _check_folder(folder: Path) -> None:
    check_name(folder.name, str(folder))
    if folder.is_symlink():
        raise PackageError(
            f"{folder}: is a link to a folder, whose files would not be packed; put the folder itself into the package."
        )


def _source_file(path: Path, name: str) -> SourceFile:
    target = path.resolve()
    for name_source in (path, target):
        check_name(name_source.name, str(path))
    if not target.is_file():
        raise PackageError(f"{path}: is not a regular file; remove it from the package.")
    return SourceFile(name, path, target.stat().st_size)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MB"


RECIPE_NAME = "recipe.yaml"
PRICES_NAME = "prices.yaml"
SWEEP_NAME = "sweep.yaml"
"""The sweep's file in the package; it refers to the recipe in the same folder."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The modification time of every file in the package: the earliest that a zip file can have."""


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
        most_bytes: largest size of the uncompressed code.

    Raises:
        PackageError: something must not or cannot be packed; no file is written.
    """
    distributions = distributions_for(workload)
    files = {file.name: file for packed in distributions for file in _code(packed)}
    check_size(tuple(files.values()), most_bytes)
    contents = {name: file.read() for name, file in files.items()}
    for name, text in _texts(distributions, {RECIPE_NAME: recipe, PRICES_NAME: prices, SWEEP_NAME: sweep}):
        check_content(text.encode(), name)
        contents[name] = text.encode()
    _write(path, contents)
    archive = path.read_bytes()
    return Package(path, sha256(archive).hexdigest(), len(archive), tuple(sorted(contents)))


def _code(packed: PackedDistribution) -> Iterator[SourceFile]:
    for dotted, top in packed.modules:
        name = dotted.replace(".", "/")
        yield from source_files(top, name if top.is_dir() else f"{name}{top.suffix}")


def _texts(distributions: tuple[PackedDistribution, ...], files: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    for packed in distributions:
        yield f"{packed.folder}/METADATA", packed.metadata
        yield f"{packed.folder}/entry_points.txt", packed.entry_points
    yield from ((name, text) for name, text in files.items() if text is not None)


def _write(path: Path, contents: Mapping[str, bytes]) -> None:
    with ZipFile(path, "w") as archive:
        for name in sorted(contents):
            info = ZipInfo(name, EPOCH)
            info.compress_type = ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, contents[name])


OWN_NAME = "fuseray"
OWN_MODULES = ("orchestrator", "workloads")
GROUPS = "fuseray."
"""Prefix of the entry-point groups that a job needs."""


@dataclass(frozen=True, slots=True)
class PackedDistribution:
    """A distribution in the package.

    Args:
        name: its name for pip.
        version: its version.
        modules: its packages and modules: dotted name, and folder or file.
        entry_points: the content of its entry_points.txt, reduced to Fuseray's groups.
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


def distributions_for(workload: str) -> tuple[PackedDistribution, ...]:
    """Return the distributions of this Python environment that a recipe's job needs.

    Args:
        workload: the recipe's workload.

    Raises:
        PackageError: Fuseray or the workload is not installed in a way that can be packed.
    """
    try:
        own = distribution(OWN_NAME)
    except PackageNotFoundError as error:
        raise PackageError(f"{OWN_NAME}: is not installed in this Python environment; pip install it.") from error
    packed = [_packed(own, OWN_MODULES)]
    third_party = workload_distribution(workload)
    if third_party is not None and third_party.name != own.name:
        packed.append(_packed(third_party, sorted(_module_names(third_party))))
    return tuple(packed)


def _packed(installed: Distribution, names: Iterable[str]) -> PackedDistribution:
    modules = tuple(module for name in names for module in _located(name))
    if not modules:
        raise PackageError(f"{installed.name}: no Python package of this distribution can be found; install it again.")
    return PackedDistribution(installed.name, installed.version, modules, _entry_points(installed))


def _entry_points(installed: Distribution) -> str:
    parser = ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    for point in installed.entry_points:
        if point.group.startswith(GROUPS):
            parser.read_dict({point.group: {point.name: point.value}})
    text = StringIO()
    parser.write(text)
    return text.getvalue()


def _module_names(installed: Distribution) -> set[str]:
    """Return the names of a distribution's packages and modules; an editable one may list none of its files."""
    names = {point.module for point in installed.entry_points if point.group.startswith(GROUPS)}
    names |= set((installed.read_text("top_level.txt") or "").split())
    return {_regular_package(name) for name in names} | set(_listed_modules(installed))


def _listed_modules(installed: Distribution) -> Iterator[str]:
    for file in installed.files or ():
        top = file.parts[0]
        if len(file.parts) == 1 and file.suffix == ".py" and not top.startswith(("_editable", "__editable")):
            yield file.stem
        elif len(file.parts) == 2 and file.name == "__init__.py":
            yield top


def _regular_package(name: str) -> str:
    """Return the first regular package in a dotted name; a namespace package is shared with other distributions."""
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
