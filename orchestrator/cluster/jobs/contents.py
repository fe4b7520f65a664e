"""The files of a Python package that travel with a job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.jobs.errors import PackageError
from orchestrator.cluster.jobs.guard import check_content, check_name, is_left_out

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
