"""What a job takes along: code, the recipe, and a table of prices; the same content gives the same file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from orchestrator.cluster.jobs.contents import MOST_BYTES, SourceFile, check_size, source_files
from orchestrator.cluster.jobs.distributions import Shipped, distributions_for
from orchestrator.cluster.jobs.guard import check_content

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
