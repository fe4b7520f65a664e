"""Reads byte ranges of many files: near ranges in one request, requests concurrently, lengths checked.

Also a stored file as a file object, for libraries that need one.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from orchestrator.storage.location import Location, read_exactly
from orchestrator.storage.retry import StorageError, retrying

OBJECT_STORE_READERS = 32
"""Concurrent requests of this process to object stores."""

LOCAL_GAP_BYTES = 32 * 1024
"""Gap up to which two ranges of a local file are read together: that costs less than another call."""

OBJECT_GAP_BYTES = 128 * 1024
"""The same for object stores. Requests are concurrent, so unused bytes soon cost more than a round trip."""

LARGEST_MERGE_BYTES = 8 * 1024 * 1024
"""Ranges are merged up to this length, so that long reads are concurrent and a failed request costs little."""

OPEN_OBJECTS = 4096
"""Objects whose sizes are cached, so that a range costs one request instead of two."""

BUFFER_BYTES = 4 * 1024 * 1024


class FileRange(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of a file."""

    location: Location
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _MergedRange:
    """One request: the bytes from `start` to `stop`, and the indices of the requested ranges in them."""

    location: Location
    start: int
    stop: int
    members: tuple[int, ...]


def read_ranges(ranges: Sequence[FileRange], gap_bytes: int | None = None) -> list[memoryview]:
    """Return the bytes of each range, in the order given; a range past the end of its file comes back shorter.

    Args:
        ranges: of any files, in any order; they may overlap.
        gap_bytes: largest gap between merged ranges; by default `LOCAL_GAP_BYTES` or `OBJECT_GAP_BYTES`.

    Raises:
        StorageError: a file is missing, or the store is failing; nothing is known about the bytes.
    """
    merged = merge(ranges, gap_bytes)
    remote = [request for request in merged if not request.location.is_local]
    contents = dict(zip(remote, _read_remote(remote), strict=True))
    contents |= {request: _read_local(request) for request in merged if request.location.is_local}
    views: list[memoryview] = [memoryview(b"")] * len(ranges)
    for request in merged:
        for member in request.members:
            start, stop = ranges[member].start - request.start, ranges[member].stop - request.start
            views[member] = contents[request][start:stop]
    return views


def merge(ranges: Sequence[FileRange], gap_bytes: int | None = None) -> list[_MergedRange]:
    """Return the requests that cover some ranges: at most `LARGEST_MERGE_BYTES` each, unless one range is longer."""
    merged: list[_MergedRange] = []
    order = sorted(range(len(ranges)), key=lambda member: (ranges[member].location.uri, *ranges[member][1:]))
    for member in order:
        file_range = ranges[member]
        if file_range.stop <= file_range.start:
            continue
        if merged and _joins(merged[-1], file_range, _gap(file_range.location) if gap_bytes is None else gap_bytes):
            last = merged.pop()
            merged.append(
                _MergedRange(last.location, last.start, max(last.stop, file_range.stop), (*last.members, member))
            )
        else:
            merged.append(_MergedRange(file_range.location, file_range.start, file_range.stop, (member,)))
    return merged


def _joins(last: _MergedRange, file_range: FileRange, gap_bytes: int) -> bool:
    if last.location != file_range.location or file_range.start > last.stop + gap_bytes:
        return False
    return file_range.stop <= last.stop or file_range.stop - last.start <= LARGEST_MERGE_BYTES


def _gap(location: Location) -> int:
    return LOCAL_GAP_BYTES if location.is_local else OBJECT_GAP_BYTES


def _read_local(request: _MergedRange) -> memoryview:
    return memoryview(
        retrying(lambda: _pread(request.location.path, request.start, request.stop), request.location.uri, "read")
    )


def _pread(path: str, start: int, stop: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.pread(descriptor, stop - start, start)
        while start + len(content) < stop and (
            more := os.pread(descriptor, stop - start - len(content), start + len(content))
        ):
            content += more
        return content
    finally:
        os.close(descriptor)


def _read_remote(requests: Sequence[_MergedRange]) -> list[memoryview]:
    if len(requests) <= 1:
        return [_read_object(request, threading.Event()) for request in requests]
    stop = threading.Event()
    futures = [_readers().submit(_read_object, request, stop) for request in requests]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
        return [future.result() for future in futures]
    finally:
        stop.set()


def _read_object(request: _MergedRange, stop: threading.Event) -> memoryview:
    def attempt() -> memoryview:
        if stop.is_set():
            raise CancelledError
        return read_object(request.location, request.start, request.stop)

    return retrying(attempt, request.location.uri, "read")


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(OBJECT_STORE_READERS, thread_name_prefix="storage-read")


def read_object(location: Location, start: int, stop: int) -> memoryview:
    """Return the bytes of a range, in one attempt; fewer when the object ends earlier.

    Raises:
        ShortRead: fewer bytes came than the object has.
        OSError: the object is missing, or the request failed.
    """
    return _OPEN.read(location, start, stop)


class OpenObjects:
    """A cache of the most recently read objects. After a failure, the next attempt asks for the object's size again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[int, str], tuple[fs.FileSystem, pa.NativeFile]] = OrderedDict()

    def read(self, location: Location, start: int, stop: int) -> memoryview:
        """See `read_object`."""
        filesystem = location.single_attempt_filesystem
        key = (id(filesystem), location.path)
        cached = self._get(key)
        file = cached or filesystem.open_input_file(location.path)
        try:
            content, complete = _checked_read(file, start, stop, fresh=cached is None)
        except (OSError, pa.ArrowException):
            self._drop(key)
            raise
        if not complete:
            self._drop(key)
            return self.read(location, start, stop)
        self._put(key, filesystem, file)
        return content

    def _get(self, key: tuple[int, str]) -> pa.NativeFile | None:
        with self._lock:
            entry = self._files.get(key)
            return None if entry is None else entry[1]

    def _put(self, key: tuple[int, str], filesystem: fs.FileSystem, file: pa.NativeFile) -> None:
        with self._lock:
            self._files[key] = (filesystem, file)
            self._files.move_to_end(key)
            if len(self._files) > OPEN_OBJECTS:
                self._files.popitem(last=False)

    def _drop(self, key: tuple[int, str]) -> None:
        with self._lock:
            self._files.pop(key, None)


def _checked_read(file: pa.NativeFile, start: int, stop: int, fresh: bool) -> tuple[memoryview, bool]:
    """Return the bytes of a range, and whether they are complete.

    That is unknown when the object ends inside the range according to a cached size, which may be out of date.
    """
    size = file.size()
    available = max(0, min(stop, size) - start)
    return read_exactly(file, start, start + available), fresh or stop <= size


_OPEN = OpenObjects()


def open_stored(location: Location, buffer_bytes: int = BUFFER_BYTES) -> io.BufferedReader:
    """Open a file as a file object, for pyarrow.parquet and the like; failed reads are retried as in `read_ranges`.

    Args:
        location: the file.
        buffer_bytes: least number of bytes per read.

    Raises:
        StorageError: there is no such file; reading raises it when the store is failing.
    """
    size = location.size()
    if size is None:
        raise StorageError(f"{location.uri}: cannot be read: it does not exist.")
    return io.BufferedReader(_StoredFile(location, size), buffer_bytes)


class _StoredFile(io.RawIOBase):
    def __init__(self, location: Location, size: int) -> None:
        self._location = location
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"cannot seek to {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        (content,) = read_ranges([FileRange(self._location, self._position, self._position + len(target))])
        target[: len(content)] = content
        self._position += len(content)
        return len(content)
