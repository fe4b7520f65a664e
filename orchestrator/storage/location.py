"""One door to storage: a URI in, a place that can be read and written out."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from orchestrator.spec.errors import FuserayError


class StorageError(FuserayError):
    """Storage could not be reached, read or written."""


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder on some file system. Pickles, so that it can travel to workers; equal when the URIs are.

    Args:
        filesystem: where it is.
        path: the path on that file system.
        uri: for people.
    """

    filesystem: fs.FileSystem = field(compare=False)
    path: str
    uri: str

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path}/{name}", f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        """Whether this is a path of this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def exists(self) -> bool:
        """Return whether there is a file or folder here."""
        return self.size() is not None or self._info().type == fs.FileType.Directory

    def size(self) -> int | None:
        """Return the file's size in bytes, or None when there is no file."""
        info = self._info()
        return info.size if info.type == fs.FileType.File else None

    def read(self) -> bytes:
        """Return the whole file.

        Raises:
            StorageError: it cannot be read.
        """
        with _explained(self.uri, "read"), self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def write(self, content: bytes) -> None:
        """Write the whole file at once: readers see the old content or the new, never a part.

        Raises:
            StorageError: it cannot be written; what was there before is untouched.
        """
        with _explained(self.uri, "written"):
            if not self.is_local:
                with self.filesystem.open_output_stream(self.path) as stream:
                    stream.write(content)
                return
            target = Path(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            try:
                _write_durably(draft, content)
                draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)

    def list(self) -> list[Location]:
        """Return the files and folders directly in this folder, by name; none when there is no folder."""
        with _explained(self.uri, "listed"):
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            return [self / info.base_name for info in sorted(found, key=lambda info: str(info.base_name))]

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file directly in this folder."""
        with _explained(self.uri, "listed"):
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    def delete(self) -> None:
        """Remove this file, or this folder and everything in it, if it is there.

        Raises:
            StorageError: it cannot be removed.
        """
        with _explained(self.uri, "deleted"):
            kind = self._info().type
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            elif kind == fs.FileType.File:
                self.filesystem.delete_file(self.path)

    def _info(self) -> fs.FileInfo:
        with _explained(self.uri, "reached"):
            return self.filesystem.get_file_info(self.path)


def locate(uri: str, endpoint: str | None = None) -> Location:
    """Open the door to a URI: a local path, `file://`, `s3://` or `gs://`.

    Args:
        uri: where; relative paths are made absolute.
        endpoint: address of an S3-compatible server, for `s3://` only.

    Raises:
        StorageError: the URI's scheme is unknown or its file system cannot be set up.
    """
    uri = uri.rstrip("/")
    scheme = urlsplit(uri).scheme
    if urlsplit(uri).password or urlsplit(uri).username:
        raise StorageError(
            f"{scheme}://{urlsplit(uri).hostname}: credentials do not belong in a URI, where logs would show them; "
            "use the standard chain of your cloud (environment, profile or role)."
        )
    if scheme in ("", "file"):
        path = Path(uri.removeprefix("file://")).expanduser().absolute()
        return Location(fs.LocalFileSystem(), str(path), str(path))
    bucket_path = uri.partition("://")[2]
    with _explained(uri, "reached"):
        if scheme == "s3":
            return Location(_s3(endpoint), bucket_path, uri)
        if scheme in ("gs", "gcs"):
            return Location(fs.GcsFileSystem(), bucket_path, uri)
    raise StorageError(f"{uri}: unknown kind of storage {scheme!r}; use a local path, file://, s3:// or gs://.")


def _s3(endpoint: str | None) -> fs.S3FileSystem:
    if endpoint is None:
        return fs.S3FileSystem()
    for variable in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        os.environ.setdefault(variable, "WHEN_REQUIRED")
    return fs.S3FileSystem(endpoint_override=endpoint, request_timeout=30, connect_timeout=5)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _explained(uri: str, verb: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: cannot be {verb}: it does not exist.") from error
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{uri}: cannot be {verb}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error).splitlines()[0]
    if "ACCESS_DENIED" in said or "403" in said:
        return f"{said}. Check the credentials and the bucket's permissions (`fuseray doctor`)."
    if "No space left" in said:
        return f"{said}. Free some space or choose another storage.uri."
    return f"{said}."
