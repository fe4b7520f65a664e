"""`locate` turns a URI into a `Location`: a file or folder, local or in an object store, to read, write and list."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from orchestrator.storage.filesystem import Address, address_of, delete_objects, open_filesystem, single_attempt
from orchestrator.storage.local_files import write_atomically
from orchestrator.storage.retry import ShortRead, StorageError, retrying

__all__ = ["Location", "StorageError", "locate", "scheme_of"]

PART_BYTES = 64 * 1024 * 1024
"""Larger files are read in parts, so that an interrupted transfer costs one part."""

MULTIPART_BYTES = 8 * 1024 * 1024
"""From this size on, a file may be written as a multipart upload, whose requests only the client can retry."""

Parts = tuple[bytes | memoryview, ...]

MARKS = (0xA5, 0x5A)
"""See `read_exactly`."""


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder on some file system. It pickles, so that workers can use it; equal when path and URI are.

    Args:
        filesystem: the file system; its client retries.
        path: the path on that file system.
        uri: for messages.
    """

    filesystem: fs.FileSystem = field(compare=False)
    path: str
    uri: str

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickle, (address_of(self.filesystem) or self.filesystem, self.path, self.uri)

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path}/{name}", f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        """Whether this is a path on this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def endpoint(self) -> str | None:
        """The address of the S3-compatible server that this is on; None elsewhere."""
        address = address_of(self.filesystem)
        return address.endpoint if address else None

    @property
    def single_attempt_filesystem(self) -> fs.FileSystem:
        """The file system for code that itself retries (`retrying`): its client tries every request once."""
        return single_attempt(self.filesystem)

    def exists(self) -> bool:
        """Return whether there is a file or folder here."""
        return bool(self._info().type != fs.FileType.NotFound)

    def size(self) -> int | None:
        """Return the file's size in bytes, or None when there is no file."""
        info = self._info()
        return info.size if info.type == fs.FileType.File else None

    def read(self) -> bytes:
        """Return the whole file.

        Raises:
            StorageError: it cannot be read.
        """
        parts: list[bytes] = []
        done, size = 0, 1
        while done < size:
            part, size = retrying(lambda start=done: self._part(start), self.uri, "read")  # type: ignore[misc]
            parts.append(part)
            done += max(len(part), 1)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, *parts: bytes | memoryview) -> None:
        """Replace the whole file atomically: readers see the old content or the new, never a part.

        Args:
            parts: the content, in one piece or several, none of which is copied.

        Raises:
            StorageError: it cannot be written; an old file is unchanged.
        """
        retrying(lambda: (_write_local if self.is_local else _write_remote)(self, parts), self.uri, "written")

    def list(self) -> list[Location]:
        """Return the files and folders directly in this folder, by name; none when there is no folder."""
        return sorted((self / info.base_name for info in _entries(self)), key=lambda location: location.name)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file directly in this folder."""
        return {info.base_name: info.size for info in _entries(self) if info.type == fs.FileType.File}

    def changed(self) -> datetime | None:
        """Return the newest modification time of the files directly in this folder; None when there are none."""
        times = [info.mtime for info in _entries(self) if info.type == fs.FileType.File and info.mtime is not None]
        return max(times, default=None)

    def delete(self) -> None:
        """Remove this file, or this folder and everything in it, if it is there.

        Raises:
            StorageError: it cannot be removed, or is a whole bucket.
        """
        if not self.is_local and "/" not in self.path:
            raise StorageError(
                f"{self.uri}: is a whole bucket; name a folder in it, or empty it with your cloud's tools."
            )
        retrying(self._delete, self.uri, "deleted")

    def _delete(self) -> None:
        kind = self.single_attempt_filesystem.get_file_info(self.path).type
        address = address_of(self.filesystem)
        if kind == fs.FileType.NotFound:
            return
        if address is not None and address.scheme == "s3":
            bucket, _, key = self.path.partition("/")
            delete_objects(address, bucket, key)
            return
        with suppress(FileNotFoundError):  # another process removed it in the meantime
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            else:
                self.filesystem.delete_file(self.path)

    def _info(self) -> fs.FileInfo:
        return retrying(lambda: self.single_attempt_filesystem.get_file_info(self.path), self.uri, "reached")

    def _part(self, start: int) -> tuple[bytes, int]:
        with self.single_attempt_filesystem.open_input_file(self.path) as file:
            size = file.size()
            return bytes(read_exactly(file, start, min(start + PART_BYTES, size))), size


def locate(uri: str, endpoint: str | None = None) -> Location:
    """Return the location of a URI: a local path, `file://`, `s3://` or `gs://`.

    Args:
        uri: the URI or path; relative paths are made absolute.
        endpoint: address of an S3-compatible server, for `s3://` only.

    Raises:
        StorageError: the URI is malformed, its scheme is unknown or its file system cannot be set up.
    """
    uri = uri.rstrip("/")
    scheme = scheme_of(uri)
    _check_authority(uri, scheme)
    if scheme in ("", "file"):
        path = str(Path(uri.removeprefix("file://")).expanduser().absolute())
        return Location(open_filesystem(Address("file")), path, path)
    address = _remote_address(uri, scheme, endpoint)
    filesystem = retrying(lambda: open_filesystem(address), uri, "reached")
    return Location(filesystem, uri.partition("://")[2], uri)


def scheme_of(uri: str) -> str:
    """Return the scheme before `://`, in lower case; empty for a path, which may well have a colon in it."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return match.group(1).lower() if match else ""


def _check_authority(uri: str, scheme: str) -> None:
    if not scheme:
        return
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise StorageError(f"{uri}: is not a valid address ({error}); correct it.") from error
    if parts.password or parts.username:
        raise StorageError(
            f"{scheme}://{parts.hostname}: credentials do not belong in a URI, where logs would show them; "
            "use the standard chain of your cloud (environment, profile or role)."
        )


def _remote_address(uri: str, scheme: str, endpoint: str | None) -> Address:
    if scheme == "s3":
        return Address("s3", endpoint)
    if scheme in ("gs", "gcs"):
        return Address("gs")
    raise StorageError(f"{uri}: unknown kind of storage {scheme!r}; use a local path, file://, s3:// or gs://.")


def _entries(folder: Location) -> list[fs.FileInfo]:
    selector = fs.FileSelector(folder.path, allow_not_found=True)
    return list(retrying(lambda: folder.single_attempt_filesystem.get_file_info(selector), folder.uri, "listed"))


def _unpickle(filesystem: fs.FileSystem | Address, path: str, uri: str) -> Location:
    return Location(open_filesystem(filesystem) if isinstance(filesystem, Address) else filesystem, path, uri)


def _write_remote(target: Location, parts: Parts) -> None:
    size_bytes = sum(len(part) for part in parts)
    filesystem = target.single_attempt_filesystem if size_bytes < MULTIPART_BYTES else target.filesystem
    with filesystem.open_output_stream(target.path) as stream:
        for part in parts:
            stream.write(part)


def _write_local(target: Location, parts: Parts) -> None:
    path = Path(target.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, parts)


def read_exactly(file: pa.NativeFile, start: int, stop: int) -> memoryview:
    """Return bytes `start` to `stop` (exclusive) of a file that has them; thread-safe.

    An S3 client may receive fewer bytes than it requested, with a Content-Length that agrees. pyarrow's client (25.0)
    does not notice: it returns its buffer as if it were full, and the end of it is uninitialised memory. So the last
    byte of our own buffer is marked before it is filled; a mark that is still there after two reads with different
    marks was never overwritten.

    Raises:
        ShortRead: fewer bytes arrived.
        OSError: the read failed.
    """
    size = stop - start
    if size <= 0:
        return memoryview(b"")
    buffer = memoryview(pa.allocate_buffer(size)).cast("B")
    for mark in MARKS:
        buffer[-1] = mark
        received = file.get_stream(start, size).readinto(buffer)
        if received == size and buffer[-1] != mark:
            return buffer.toreadonly()
    raise ShortRead(f"fewer than {size} bytes came")
